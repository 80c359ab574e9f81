"""What can be typed instead of a question: the table of commands, and how a line finds its command."""

from __future__ import annotations

from difflib import get_close_matches

from qwenctl.cli.chat.answer_commands import ANSWER_COMMANDS
from qwenctl.cli.chat.conversation_commands import CONVERSATION_COMMANDS
from qwenctl.cli.chat.file_commands import FILE_COMMANDS
from qwenctl.cli.chat.session import ChatSession
from qwenctl.cli.chat.session_commands import SESSION_COMMANDS
from qwenctl.cli.chat.slash_command import LeaveChat, SlashCommand
from qwenctl.errors import QwenctlError

KEYS = (
    ("Enter", 'sends; between """ and """ it starts a new line'),
    ("Alt-Enter", "starts a new line, as Ctrl-J does"),
    ("Ctrl-C", "stops an answer and keeps what there is"),
    ("Ctrl-A", "while the model thinks: no more of it, answer now"),
    ("Ctrl-O", "shows what the model thinks, or has thought"),
    ("Ctrl-D", "ends the chat"),
    ("Ctrl-G", "opens the editor, as Ctrl-X Ctrl-E does: $VISUAL or $EDITOR"),
    ("Ctrl-R", "searches what was typed before"),
    ("Tab", "completes a command, and a file's name after it"),
    ("@FILE", "in a question: the file's text goes before it"),
)


def run_slash_command(session: ChatSession, line: str) -> None:
    """Do what `line`, which begins with a slash, says. Errors are shown, not raised.

    Raises:
        LeaveChat: the user wants to go.
    """
    name, _, argument = line.strip().partition(" ")
    command = _BY_NAME.get(name.lower())
    if command is None:
        near = get_close_matches(name.lower(), _BY_NAME, 1, 0.5)
        session.screen.error(f"no command {name}", f"did you mean {near[0]}?" if near else "/help lists them")
        return
    if argument.strip() and not command.argument:
        session.screen.error(f"{name} takes no argument", "type a blank before the slash to send it as a question")
        return
    try:
        command.run(session, argument.strip())
    except QwenctlError as error:
        session.screen.error(error.message, error.hint)


def _help(session: ChatSession, _: str) -> None:
    commands = [(f"{command.names[0]} {command.argument}".rstrip(), command.summary) for command in COMMANDS]
    width = max(len(name) for name, _ in (*commands, *KEYS))
    tables = ["\n".join(f"{name:<{width}}  {meaning}" for name, meaning in table) for table in (commands, KEYS)]
    session.screen.show("\n\n".join([*tables, "A blank before a slash sends it as text."]))


def _edit(session: ChatSession, _: str) -> None:
    session.screen.error("/edit needs a terminal with an input line")  # which opens the editor by itself


def _exit(_session: ChatSession, _: str) -> None:
    raise LeaveChat


COMMANDS: tuple[SlashCommand, ...] = (
    SlashCommand(("/help", "/?"), "", "this list", _help),
    *CONVERSATION_COMMANDS,
    *ANSWER_COMMANDS,
    *FILE_COMMANDS,
    *SESSION_COMMANDS,
    SlashCommand(("/edit",), "[TEXT]", "write the next question in your editor", _edit),
    SlashCommand(("/exit", "/quit", "/bye"), "", "end the chat", _exit),
)
COMPLETIONS = {name: command.argument for command in COMMANDS for name in command.names}
_BY_NAME = {name: command for command in COMMANDS for name in command.names}
