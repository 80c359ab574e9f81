"""`qwenctl completion`: scripts that let a shell complete qwenctl's words, and the words that they ask for."""

from __future__ import annotations

from importlib import import_module

import click

from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.services.completion_values import FINDERS, completion_values
from qwenctl.settings import Settings

_SHELLS = ("bash", "zsh", "fish")


@click.command(
    "completion",
    cls=Command,
    examples=[
        "qwenctl completion bash > ~/.local/share/bash-completion/completions/qwenctl",
        'qwenctl completion zsh > "${fpath[1]}/_qwenctl"',
        "qwenctl completion fish > ~/.config/fish/completions/qwenctl.fish",
        "qwenctl completion --values models      # what a script asks for",
    ],
)
@click.argument("shell", type=click.Choice(_SHELLS), required=False, metavar="[bash|zsh|fish]")
@click.option("--values", type=click.Choice(list(FINDERS)), help="Write what there is of this kind, one a line.")
@output_options
def command(*, shell: str | None, values: str | None, output: Output, settings: Settings) -> None:
    """Write a script that completes qwenctl's words in a shell.

    Commands and options, and names of models, types, presets, templates and saved chats. Put it where your shell looks
    for such scripts, as in the examples, and open a new shell. Write it anew after an update of qwenctl.
    """
    if (shell is None) is (values is None):
        raise click.UsageError("name a shell: bash, zsh or fish")
    if values is not None:
        found = completion_values(values, settings)
        if output.json_mode:
            output.data([{"word": word, "description": about} for word, about in found])
        for word, about in () if output.json_mode else found:
            output.line(f"{word}\t{about}")
        return
    table = import_module("qwenctl.cli.completion.completion_table")  # which imports all commands
    script = import_module(f"qwenctl.cli.completion.{shell}_script")
    text = getattr(script, f"{shell}_script")(table.completion_table(import_module("qwenctl.cli.main").cli))
    if output.json_mode:
        output.data({"shell": shell, "script": text})
    else:
        output.write(text)
