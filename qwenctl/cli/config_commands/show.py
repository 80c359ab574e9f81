"""`qwenctl config show`: what the commands would use, and where each value comes from."""

from __future__ import annotations

import click

from qwenctl.cli.command import Command
from qwenctl.cli.config_report import print_config
from qwenctl.cli.option_choice import CONFIGURED
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.settings import Settings


@click.command(
    "show",
    cls=Command,
    examples=[
        "qwenctl config show",
        "qwenctl config show chat --preset reviewer",
        "qwenctl config show run --all --json | jq '.commands.run.ctx'",
    ],
)
@click.argument("name", metavar="[COMMAND]", required=False, type=click.Choice(CONFIGURED))
@click.option("-p", "--preset", metavar="NAME", help="With the options of this preset.")
@click.option("--all", "everything", is_flag=True, help="Also options that nothing has set.")
@output_options
def command(*, name: str | None, preset: str | None, everything: bool, output: Output, settings: Settings) -> None:
    """Say what the commands would use, and where each value comes from.

    The whole config file is checked on the way, presets included. Without COMMAND, all four are shown.
    """
    print_config(name, preset, settings, output, everything=everything)
