"""The slash commands that change the conversation."""

from __future__ import annotations

from qwenctl.cli.chat.session import ChatSession
from qwenctl.cli.chat.slash_command import OtherModel, SlashCommand, path_argument, shortened
from qwenctl.services.attachment import without_attachments
from qwenctl.services.conversation_file import load_conversation, save_conversation
from qwenctl.units import counted


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


def _model(session: ChatSession, name: str) -> None:
    if name:
        raise OtherModel(name)
    info = session.model.engine.info
    session.screen.show(f"{info.name} ({info.path}); /model NAME lets another one go on")


def _regen(session: ChatSession, _: str) -> None:
    session.regenerate()


def _undo(session: ChatSession, _: str) -> None:
    gone = session.conversation.exchanges[-1:]
    session.change(session.conversation.undo())
    session.screen.note(f"taken back: {shortened(without_attachments(gone[0].user))}")


def _save(session: ChatSession, name: str) -> None:
    path = path_argument(name, "/save talk.json")
    save_conversation(session.conversation, path)
    session.screen.note(f"saved {counted(len(session.conversation.exchanges), 'exchange')} to {path}")


def _load(session: ChatSession, name: str) -> None:
    path = path_argument(name, "/load talk.json")
    session.begin(load_conversation(path))
    session.screen.note(f"loaded {counted(len(session.conversation.exchanges), 'exchange')} from {path}")
    show_last_exchange(session)


def show_last_exchange(session: ChatSession) -> None:
    """Show where the conversation stands, if anything has been said."""
    for exchange in session.conversation.exchanges[-1:]:
        session.screen.note(f"> {shortened(without_attachments(exchange.user))}\n{shortened(exchange.answer or '')}")


def _clear(session: ChatSession, _: str) -> None:
    session.begin(session.conversation.cleared())
    session.screen.note("a new conversation; the system prompt stays")


CONVERSATION_COMMANDS: tuple[SlashCommand, ...] = (
    SlashCommand(("/system",), "[TEXT]", "show the system prompt, or set it; - removes it", _system),
    SlashCommand(("/model",), "[NAME]", "say which model answers, or let another one go on", _model),
    SlashCommand(("/think",), "", "let the model think before it answers", _think),
    SlashCommand(("/no_think", "/nothink"), "", "let it answer at once", _no_think),
    SlashCommand(("/regen", "/regenerate"), "", "answer the last question anew", _regen),
    SlashCommand(("/undo",), "", "take the last question and its answer back", _undo),
    SlashCommand(("/clear", "/new"), "", "begin a new conversation", _clear),
    SlashCommand(("/save",), "FILE", "write the conversation to a file", _save),
    SlashCommand(("/load",), "FILE", "go on with a saved conversation", _load),
)
