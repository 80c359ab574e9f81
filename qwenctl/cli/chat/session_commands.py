"""The slash commands for saved chats: list them, go on with one."""

from __future__ import annotations

from qwenctl.cli.chat.conversation_commands import show_last_exchange
from qwenctl.cli.chat.session import ChatSession
from qwenctl.cli.chat.slash_command import SlashCommand
from qwenctl.cli.session_list import local_time
from qwenctl.errors import InvalidRequest
from qwenctl.services.session_choice import find_session
from qwenctl.services.session_record import SessionRecord
from qwenctl.services.session_store import SessionQuery

_N_SHOWN = 10


def _sessions(session: ChatSession, words: str) -> None:
    heads = _record(session).store.heads(SessionQuery(tuple(words.split()), limit=_N_SHOWN))
    lines = [f"{head.session_id}  {local_time(head.updated_s)}  {head.n_exchanges:>3}  {head.title}" for head in heads]
    session.screen.show("\n".join(lines) or "no such chat is saved")


def _resume(session: ChatSession, text: str) -> None:
    record = _record(session)
    if not text:
        raise InvalidRequest("/resume needs an ID or words", "/sessions lists saved chats")
    found = record.store.read(find_session(record.store, text).head.session_id)
    before = found.head.model_name
    session.resume(found)
    session.screen.note(f"session {found.head.session_id}: {found.head.title}")
    name = session.model.engine.info.name
    if before != name:
        session.screen.note(f"{before} answered in this session before; now it is {name}")
    show_last_exchange(session)


def _record(session: ChatSession) -> SessionRecord:
    if session.record is None:
        raise InvalidRequest("saved chats are out of reach here", "start it without --no-session: qwenctl chat")
    return session.record


SESSION_COMMANDS = (
    SlashCommand(("/sessions",), "[WORDS]", "the latest saved chats, or those with these words", _sessions),
    SlashCommand(("/resume",), "ID|WORDS", "go on with a saved chat", _resume),
)
