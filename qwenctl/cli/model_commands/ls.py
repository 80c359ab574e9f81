"""`qwenctl models ls`: the same as `qwenctl models`, for those who type it."""

from __future__ import annotations

import click

from qwenctl.cli.command import Command
from qwenctl.cli.model_list import print_models
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.settings import Settings


@click.command("ls", cls=Command, examples=["qwenctl models ls", "qwenctl models ls --json | jq -r '.[].name'"])
@output_options
def command(*, output: Output, settings: Settings) -> None:
    """List the models that are here."""
    print_models(output, settings)
