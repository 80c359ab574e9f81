"""`--template` and `--var`: a prompt with holes, and what goes into them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import click

from qwenctl.cli.prompt_input import text_or_file
from qwenctl.errors import InvalidRequest
from qwenctl.services.prompt_template import PromptTemplate, read_template, templates_folder
from qwenctl.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


class FilledTemplate(NamedTuple):
    """A template and the values of its variables, or no template."""

    template: PromptTemplate | None
    values: Mapping[str, str]

    @property
    def needs_input(self) -> bool:
        """Whether there can be no prompt without something typed, piped in or attached."""
        return self.template is None or self.template.takes_input

    def prompt(self, given: str) -> str:
        """Return the prompt made of `given`: itself, where there is no template.

        Raises:
            InvalidRequest: values are missing, or there are too many.
        """
        return given if self.template is None else self.template.fill(self.values, given)


def template_options(function: F) -> F:
    """Add the options and call the command with `template`, a `FilledTemplate`."""

    @click.option(
        "--template",
        metavar="FILE|NAME",
        help="Ask what this file says: {{name}} in it is replaced by --var name=value, {{input}} by PROMPT, files and "
        "piped text. NAME means a file in templates/ beside config.toml.",
    )
    @click.option(
        "--var",
        "variables",
        multiple=True,
        metavar="NAME=VALUE",
        help="The value of a variable of the template; @FILE reads it from a file. May be repeated.",
    )
    @wraps(function)
    def command(*, template: str | None, variables: tuple[str, ...], **kwargs: Any) -> Any:
        if template is None and variables:
            raise InvalidRequest("--var without --template", "name the template: --template FILE")
        settings: Settings = click.get_current_context().obj
        found = None if template is None else read_template(template, templates_folder(settings))
        values = dict(_name_and_value(text) for text in variables)
        return function(template=FilledTemplate(found, values), **kwargs)

    return cast("F", command)


def _name_and_value(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise InvalidRequest(f"--var {text} names no variable", "write --var name=value")
    return name, text_or_file(value) or ""
