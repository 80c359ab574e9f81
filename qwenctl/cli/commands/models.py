"""`qwenctl models`: the models that are here. By itself it lists them."""

from __future__ import annotations

import click

from qwenctl.cli.command import CommandGroup
from qwenctl.cli.lazy_group import Entry
from qwenctl.cli.model_list import print_models
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.settings import Settings

_FOLDER = "qwenctl.cli.model_commands"
_COMMANDS = {
    "ls": Entry("Look", f"{_FOLDER}.ls", "List the models that are here."),
    "show": Entry("Look", f"{_FOLDER}.show", "Say where a model came from, and what it takes of the disk."),
    "verify": Entry("Look", f"{_FOLDER}.verify", "Check models for damage."),
    "default": Entry("Change", f"{_FOLDER}.default", "Choose the model that is used where none is named."),
    "rm": Entry("Change", f"{_FOLDER}.rm", "Remove models."),
    "prune": Entry("Change", f"{_FOLDER}.prune", "Remove what interrupted and outdated work has left."),
}


@click.group(
    "models",
    cls=CommandGroup,
    entries=_COMMANDS,
    invoke_without_command=True,
    examples=["qwenctl models", "qwenctl models --json", "qwenctl models rm qwen3-8b-q4_k_m"],
)
@output_options
@click.pass_context
def command(context: click.Context, /, *, output: Output, settings: Settings) -> None:
    """List the models that are here, and look after them.

    They lie in QWENCTL_MODELS, by default in qwenctl's data folder.
    """
    if context.invoked_subcommand is None:
        print_models(output, settings)
