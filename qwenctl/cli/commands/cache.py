"""`qwenctl cache`: the computed prompts that are kept on disk. By itself it lists them."""

from __future__ import annotations

import click

from qwenctl.cli.cache_list import print_cache
from qwenctl.cli.command import CommandGroup
from qwenctl.cli.lazy_group import Entry
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.settings import Settings

_FOLDER = "qwenctl.cli.cache_commands"
_COMMANDS = {
    "ls": Entry("Look", f"{_FOLDER}.ls", "List the prompts that are kept."),
    "rm": Entry("Change", f"{_FOLDER}.rm", "Remove kept prompts."),
}


@click.group(
    "cache",
    cls=CommandGroup,
    entries=_COMMANDS,
    invoke_without_command=True,
    examples=["qwenctl cache", "qwenctl cache --json | jq .bytes", "qwenctl cache rm --all"],
)
@output_options
@click.pass_context
def command(context: click.Context, /, *, output: Output, settings: Settings) -> None:
    """List the computed prompts that are kept on disk, and remove them.

    They make the next question about the same text, and the next turn of a chat, start at once. The files hold what was
    typed in a form that a program can turn back into text; only you can read them. Those not used for longest go when
    there is no more room. QWENCTL_PREFIX_CACHE says how much they may take, or off.
    """
    if context.invoked_subcommand is None:
        print_cache(output, settings)
