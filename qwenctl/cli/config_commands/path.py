"""`qwenctl config path`: where the config file is."""

from __future__ import annotations

import click

from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.services.config_file import config_path
from qwenctl.settings import Settings


@click.command("path", cls=Command, examples=["qwenctl config path", '$EDITOR "$(qwenctl config path)"'])
@output_options
def command(*, output: Output, settings: Settings) -> None:
    """Say where the config file is, or would be."""
    path = config_path(settings)
    if output.json_mode:
        output.data({"path": str(path), "exists": path.is_file()})
        return
    output.line(str(path))
    if not path.is_file():
        output.note("there is no such file yet")
