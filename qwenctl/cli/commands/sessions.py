"""`qwenctl sessions`: the chats that are saved. By itself it lists them."""

from __future__ import annotations

import click

from qwenctl.cli.command import CommandGroup
from qwenctl.cli.lazy_group import Entry
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.cli.session_list import print_sessions
from qwenctl.services.session_choice import open_store
from qwenctl.settings import Settings

_FOLDER = "qwenctl.cli.session_commands"
_COMMANDS = {
    "ls": Entry("Look", f"{_FOLDER}.ls", "List the chats that are saved, the latest first."),
    "show": Entry("Look", f"{_FOLDER}.show", "Say what was said in a saved chat."),
    "export": Entry("Look", f"{_FOLDER}.export", "Write a saved chat in a form that others read."),
    "rm": Entry("Change", f"{_FOLDER}.rm", "Remove saved chats."),
}


@click.group(
    "sessions",
    cls=CommandGroup,
    entries=_COMMANDS,
    invoke_without_command=True,
    examples=[
        "qwenctl sessions",
        'qwenctl sessions ls --search "sky blue"',
        "qwenctl sessions export 3fa2c1d0 > talk.md",
    ],
)
@output_options
@click.pass_context
def command(context: click.Context, /, *, output: Output, settings: Settings) -> None:
    """List the chats that are saved, and look after them.

    They lie in one SQLite file in qwenctl's data folder, readable by you alone. Nothing is saved by
    `qwenctl chat --no-session`, or at all with QWENCTL_SESSIONS=off.
    """
    if context.invoked_subcommand is None:
        print_sessions(open_store(settings).heads(), output)
