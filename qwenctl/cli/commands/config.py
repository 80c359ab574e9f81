"""`qwenctl config`: what is configured. By itself it shows that."""

from __future__ import annotations

import click

from qwenctl.cli.command import CommandGroup
from qwenctl.cli.config_report import print_config
from qwenctl.cli.lazy_group import Entry
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.settings import Settings

_FOLDER = "qwenctl.cli.config_commands"
_COMMANDS = {
    "show": Entry("Look", f"{_FOLDER}.show", "Say what the commands would use, and where each value comes from."),
    "path": Entry("Look", f"{_FOLDER}.path", "Say where the config file is, or would be."),
}


@click.group(
    "config",
    cls=CommandGroup,
    entries=_COMMANDS,
    invoke_without_command=True,
    examples=["qwenctl config", "qwenctl config show chat --all", "qwenctl config path"],
)
@output_options
@click.pass_context
def command(context: click.Context, /, *, output: Output, settings: Settings) -> None:
    """Say what is configured, and where it comes from.

    config.toml in $XDG_CONFIG_HOME/qwenctl (~/.config/qwenctl) holds options of run, chat, batch and serve, written
    without their dashes: in [defaults] for all of them, in [run] for one, in [presets.NAME] for --preset NAME.

    \b
      [defaults]
      model = "qwen3-30b-a3b-q4_k_m"
      ctx = "32k"
      [chat]
      think = false
      [presets.reviewer]
      system = "You review code. Name the line."
      temp = 0.2

    The command line wins, then a preset named on it, then QWENCTL_CTX and the like in the environment, then the section
    of the command, then [defaults].
    """
    if context.invoked_subcommand is None:
        print_config(None, None, settings, output, everything=False)
