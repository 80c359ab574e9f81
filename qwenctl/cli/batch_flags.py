"""The options that say how a file of lines is gone through: how many at once, in which order, how often, how far."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import click

from qwenctl.cli.options import TokenCount
from qwenctl.cli.parallel_option import ParallelCount
from qwenctl.cli.prompt_input import text_or_file
from qwenctl.services.batch_options import DEFAULT_PARALLEL, BatchOptions
from qwenctl.services.batch_order import Order
from qwenctl.services.generation import ChatOptions

F = TypeVar("F", bound=Callable[..., Any])


class BatchFlags(NamedTuple):
    """What the command line says about the run."""

    parallel: int | None
    order: Order
    retries: int
    max_total_tokens: int | None
    restart: bool
    retry_errors: bool
    system: str | None
    check: bool

    def options(self, chat: ChatOptions) -> BatchOptions:
        """Return the same for `run_batch`; `chat` holds for lines that do not say otherwise."""
        return BatchOptions(
            chat,
            self.system,
            self.parallel or DEFAULT_PARALLEL,
            self.restart,
            self.retry_errors,
            order=self.order,
            n_retries=self.retries,
            max_total_tokens=self.max_total_tokens,
        )


def batch_flags(function: F) -> F:
    """Add the options and call the command with `flags`, a `BatchFlags`."""

    @wraps(function)
    def command(*, system: str | None, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in BatchFlags._fields if name != "system"}
        return function(flags=BatchFlags(system=text_or_file(system), **given), **kwargs)

    for option in reversed(_options()):
        option(command)
    return cast("F", command)


def _options() -> list[Callable[[F], F]]:
    return [
        click.option(
            "--parallel",
            type=ParallelCount(),
            metavar="N|auto",
            help="Answers at the same time, at each server as well; auto is as many as pay and fit, or as a server "
            "says it can.  [default: auto]",
        ),
        click.option(
            "--order",
            type=click.Choice(["finished", "input"]),
            default="finished",
            show_default=True,
            help="Write answers as they are finished, or in the order of the lines.",
        ),
        click.option(
            "--retries",
            type=click.IntRange(0, 100),
            default=2,
            show_default=True,
            metavar="N",
            help="Try a line again so often when an attempt failed, with another seed.",
        ),
        click.option(
            "--max-total-tokens",
            type=TokenCount(),
            metavar="N",
            help="Stop before the whole batch, earlier runs included, takes more than N tokens, prompts and answers.",
        ),
        click.option("--check", is_flag=True, help="Look at all lines, tokens and time to expect; generate nothing."),
        click.option("--restart", is_flag=True, help="Throw away what FILE holds, and answer all lines anew."),
        click.option("--retry-errors", is_flag=True, help="Answer the lines again whose record in FILE is an error."),
        click.option(
            "--system", metavar="TEXT", help="System prompt of lines without one; @FILE reads it from a file."
        ),
    ]
