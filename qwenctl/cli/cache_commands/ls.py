"""`qwenctl cache ls`: the same as `qwenctl cache`, for those who type it."""

from __future__ import annotations

import click

from qwenctl.cli.cache_list import print_cache
from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.settings import Settings


@click.command("ls", cls=Command, examples=["qwenctl cache ls", "qwenctl cache ls --json | jq '.prompts[].tokens'"])
@output_options
def command(*, output: Output, settings: Settings) -> None:
    """List the prompts that are kept."""
    print_cache(output, settings)
