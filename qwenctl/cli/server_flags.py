"""The options of `qwenctl batch` that say which servers get lines."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import click

from qwenctl.cli.prompt_input import text_or_file
from qwenctl.errors import InvalidRequest
from qwenctl.services.server_choice import ServerAddress, ServerChoice

F = TypeVar("F", bound=Callable[..., Any])


def server_flags(function: F) -> F:
    """Add the options and call the command with `servers`, a `ServerChoice`."""

    @wraps(function)
    def command(
        *,
        server: tuple[str, ...],
        server_model: str | None,
        server_timeout: float,
        api_key: str | None,
        **kwargs: Any,
    ) -> Any:
        texts = [text for value in server for text in value.split(",") if text.strip()]
        if not texts and server_model is not None:
            raise InvalidRequest("--server-model is of no use without --server")
        key = (text_or_file(api_key) or "").strip()
        if not key.isprintable() or not key.isascii():
            raise InvalidRequest("the key of --api-key holds what no key can hold")
        addresses = tuple(ServerAddress.parse(text) for text in texts)
        return function(servers=ServerChoice(addresses, key or None, server_model, server_timeout), **kwargs)

    for option in reversed(_options()):
        option(command)
    return cast("F", command)


def _options() -> list[Callable[[F], F]]:
    return [
        click.option(
            "--server",
            multiple=True,
            metavar="URL[,URL…]",
            help="Send lines to these OpenAI-compatible servers (`qwenctl serve` is one); without MODEL, only there.",
        ),
        click.option("--server-model", metavar="NAME", help="Model to ask the servers for.  [default: their first]"),
        click.option(
            "--server-timeout",
            type=click.FloatRange(min=0.1),
            default=600.0,
            show_default=True,
            metavar="SECONDS",
            help="Give an answer of a server up after so long a silence.",
        ),
        click.option("--api-key", metavar="KEY", help="Key that the servers want; @FILE reads it from a file."),
    ]
