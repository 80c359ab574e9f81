"""What can be typed instead of a question: one table of commands, and how a line finds its command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from qwenctl.cli.chat.session import ChatSession
from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.services.conversation_file import load_conversation, save_conversation

KEYS = """Enter            sends; between \"\"\" and \"\"\" it starts a new line
Alt-Enter        starts a new line, as Ctrl-J does
Ctrl-C           stops an answer and keeps what there is
Ctrl-D           ends the chat
Ctrl-X Ctrl-E    opens the editor
Tab              completes a command; a blank before a slash sends it as text"""


class LeaveChat(Exception):
    """The user wants to go."""


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """One command; `run` gets what follows its name."""

    names: tuple[str, ...]  # the first is the one that is shown
    argument: str
    summary: str
    run: Callable[[ChatSession, str], None]


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
    usages = [f"{command.names[0]} {command.argument}".rstrip() for command in COMMANDS]
    width = max(map(len, usages))
    lines = [f"{usage:<{width}}  {command.summary}" for usage, command in zip(usages, COMMANDS, strict=True)]
    session.screen.show("\n".join([*lines, "", KEYS]))


def _system(session: ChatSession, text: str) -> None:
    if text:
        session.change(session.conversation.with_system(None if text == "-" else text))
    session.screen.show(f"system prompt: {session.conversation.system or 'none'}")


def _think(session: ChatSession, _: str) -> None:
    _set_thinking(session, True)


def _no_think(session: ChatSession, _: str) -> None:
    _set_thinking(session, False)


def _set_thinking(session: ChatSession, thinking: bool) -> None:
    can = session.model.capabilities.thinking
    if can != "hybrid":
        session.screen.error("this model never thinks" if can == "none" else "this model always thinks")
        return
    session.change(session.conversation.with_thinking(thinking))
    session.screen.note("the model thinks before it answers" if thinking else "the model answers without thinking")


def _regen(session: ChatSession, _: str) -> None:
    session.regenerate()


def _undo(session: ChatSession, _: str) -> None:
    gone = session.conversation.exchanges[-1:]
    session.change(session.conversation.undo())
    session.screen.note(f"taken back: {_shortened(gone[0].user)}")


def _save(session: ChatSession, name: str) -> None:
    path = _path(name, "/save")
    save_conversation(session.conversation, path)
    session.screen.note(f"saved {len(session.conversation.exchanges)} exchanges to {path}")


def _load(session: ChatSession, name: str) -> None:
    path = _path(name, "/load")
    session.begin(load_conversation(path))
    session.screen.note(f"loaded {len(session.conversation.exchanges)} exchanges from {path}")
    show_last_exchange(session)


def show_last_exchange(session: ChatSession) -> None:
    """Show where the conversation stands, if anything has been said."""
    for exchange in session.conversation.exchanges[-1:]:
        session.screen.note(f"> {_shortened(exchange.user)}\n{_shortened(exchange.answer or '')}")


def _path(name: str, command: str) -> Path:
    if not name:
        raise InvalidRequest(f"{command} needs the name of a file", f"{command} talk.json")
    return Path(name).expanduser()


def _stats(session: ChatSession, _: str) -> None:
    session.screen.show("\n".join(session.stats))


def _reasoning(session: ChatSession, _: str) -> None:
    session.screen.show(session.reasoning or "there is none: the model did not think before its last answer")


def _clear(session: ChatSession, _: str) -> None:
    session.begin(session.conversation.cleared())
    session.screen.note("a new conversation; the system prompt stays")


def _exit(_session: ChatSession, _: str) -> None:
    raise LeaveChat


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:99] + "…"


COMMANDS: tuple[SlashCommand, ...] = (
    SlashCommand(("/help", "/?"), "", "this list", _help),
    SlashCommand(("/system",), "[TEXT]", "show the system prompt, or set it; - removes it", _system),
    SlashCommand(("/think",), "", "let the model think before it answers", _think),
    SlashCommand(("/no_think", "/nothink"), "", "let it answer at once", _no_think),
    SlashCommand(("/regen", "/regenerate"), "", "answer the last question anew", _regen),
    SlashCommand(("/undo",), "", "take the last question and its answer back", _undo),
    SlashCommand(("/save",), "FILE", "write the conversation to a file", _save),
    SlashCommand(("/load",), "FILE", "go on with a saved conversation", _load),
    SlashCommand(("/stats",), "", "tokens, speed and sampling of the last answer", _stats),
    SlashCommand(("/reasoning",), "", "what the model thought before its last answer", _reasoning),
    SlashCommand(("/clear", "/new"), "", "begin a new conversation", _clear),
    SlashCommand(("/exit", "/quit", "/bye"), "", "end the chat", _exit),
)
_BY_NAME = {name: command for command in COMMANDS for name in command.names}
