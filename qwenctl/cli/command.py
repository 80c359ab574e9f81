"""The kinds of click command that this program is made of: with examples, shown in their help and in the README."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from qwenctl.cli.file_option import FileOption
from qwenctl.cli.help_topics import ENVIRONMENT, EXIT_CODES, FILES
from qwenctl.cli.lazy_group import LazyGroup


class Command(click.Command):
    """A click command with examples.

    Args:
        examples: complete command lines, each optionally followed by "  # what it does".
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words of a command line."""
        for parameter in self.params:
            if isinstance(parameter, FileOption):
                args = parameter.spread(args)
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples below the options."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")
        super().format_epilog(ctx, formatter)


class CommandGroup(Command, LazyGroup):
    """A command that has commands below it, and does something by itself, too."""


class Program(CommandGroup):
    """The program itself: with what holds for all commands."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write examples, exit codes, variables and files."""
        super().format_epilog(ctx, formatter)
        for title, rows in (("Exit codes", EXIT_CODES), ("Environment", ENVIRONMENT), ("Files", FILES)):
            with formatter.section(title):
                formatter.write_dl(list(rows), col_max=34)
