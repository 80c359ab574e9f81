"""The options that say how an answer is generated, the same for `run`, `chat` and `batch`.

Only what was given on the command line is passed on; the rest comes from the model's file and family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast, get_args

import click

from qwenctl.cli.options import TokenCount
from qwenctl.cli.schema_options import chosen_schema, schema_options
from qwenctl.core import SamplingParams
from qwenctl.errors import InvalidRequest
from qwenctl.services.generation import ChatOptions
from qwenctl.services.overflow.policy import OverflowPolicy

F = TypeVar("F", bound=Callable[..., Any])

# option, field of core.SamplingParams, type, help
_SAMPLING: tuple[tuple[str, str, type[int] | type[float], str], ...] = (
    ("--temp", "temperature", float, "Temperature; 0 always takes the likeliest token."),
    ("--top-p", "top_p", float, "Sample from the likeliest tokens that together have this probability, up to 1."),
    ("--top-k", "top_k", int, "Sample from the N likeliest tokens; 0 is off."),
    ("--min-p", "min_p", float, "Drop tokens less likely than this share of the likeliest one, up to 1."),
    ("--presence-penalty", "presence_penalty", float, "Against tokens that occurred already; -2 to 2."),
    ("--repeat-penalty", "repeat_penalty", float, "Divide the logits of recent tokens by this; 1 is off."),
    ("--seed", "seed", int, "Seed of the random choices, for the same answer again."),
)


class ReplyOptions(NamedTuple):
    """What the command line says about an answer. None and absent keys: the model's own default."""

    thinking: bool | None
    max_tokens: int | None
    overflow: OverflowPolicy
    stop: tuple[str, ...]
    sampling: Mapping[str, Any]  # fields of core.SamplingParams
    think_budget: int | None = None
    schema: Any | None = None  # JSON schema of the answer

    def chat_options(self) -> ChatOptions:
        """Return the same for `ChatModel`."""
        return ChatOptions(
            self.thinking,
            self.sampling,
            self.max_tokens,
            self.stop,
            self.overflow,
            think_budget=self.think_budget,
            answer_schema=self.schema,
        )


def reply_options(function: F) -> F:
    """Add the options and call the command with `reply`, a `ReplyOptions`."""

    @wraps(function)
    def command(
        *,
        thinking: bool | None,
        think_budget: int | None,
        max_tokens: int | None,
        overflow: OverflowPolicy,
        truncate: bool,
        stop: tuple[str, ...],
        grammar: str | None,
        schema: str | None,
        json_object: bool,
        **kwargs: Any,
    ) -> Any:
        given = {field: kwargs.pop(field) for _, field, _, _ in _SAMPLING}
        sampling = {field: value for field, value in given.items() if value is not None}
        _check(sampling)
        if grammar is not None:
            sampling["grammar"] = _read_grammar(Path(grammar))
        if truncate and overflow == "refuse":
            overflow = "truncate-middle"
        chosen = chosen_schema(schema, json_object=json_object, grammar=grammar is not None)
        reply = ReplyOptions(thinking, max_tokens, overflow, stop, sampling, think_budget, chosen)
        return function(reply=reply, **kwargs)

    for option in reversed(_options()):
        option(command)
    return cast("F", command)


def _check(sampling: Mapping[str, Any]) -> None:
    """Refuse values out of range now, not after the model has been loaded."""
    try:
        SamplingParams(**sampling)
    except ValueError as error:
        raise InvalidRequest(str(error)) from error


def _read_grammar(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8, so no grammar") from error


def _options() -> list[Callable[[F], F]]:
    sampling = [
        click.option(name, field, type=kind, metavar="N" if kind is int else "X", help=text)
        for name, field, kind, text in _SAMPLING
    ]
    return [
        click.option(
            "--think/--no-think", "thinking", default=None, help="Let the model think before it answers, or not."
        ),
        click.option(
            "--think-budget",
            type=TokenCount(least=0),
            metavar="N",
            help="End the thinking after N tokens, and answer with what it has come to.",
        ),
        click.option(
            "--max-tokens", type=TokenCount(), metavar="N", help="End the answer after N tokens, thinking included."
        ),
        click.option(
            "--overflow",
            type=click.Choice(get_args(OverflowPolicy)),
            default="refuse",
            show_default=True,
            help="A prompt that is too long: refuse it, leave out its middle, or let the model summarise it first.",
        ),
        click.option("--truncate", is_flag=True, hidden=True, help="The same as --overflow truncate-middle."),
        *sampling,
        click.option(
            "--stop", multiple=True, metavar="TEXT", help="End the answer where TEXT appears; may be repeated."
        ),
        click.option(
            "--grammar",
            type=click.Path(exists=True, dir_okay=False),
            metavar="FILE",
            help="Hold the answer to the GBNF grammar in FILE, start rule `root`.",
        ),
        *schema_options(),
    ]
