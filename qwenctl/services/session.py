"""A saved chat as a value: what is known of it, and what its title and ID are. Where it lies is session_store.py's."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from qwenctl.services.attachment import without_attachments
from qwenctl.services.conversation import Conversation

_TITLE_CHARS = 72


@dataclass(frozen=True, slots=True)
class SessionHead:
    """What a list says of a session."""

    session_id: str  # eight hexadecimal digits
    title: str  # the first line of the first question
    model: str  # what opens the model again: "demo", or the path of its file
    model_name: str
    n_exchanges: int
    created_s: float  # seconds since 1970, UTC
    updated_s: float


@dataclass(frozen=True, slots=True)
class Session:
    """A session as it was read or saved last."""

    head: SessionHead
    conversation: Conversation = field(default_factory=Conversation)
    revision: int = 0  # grows with each change; 0: not saved


def new_session(model: str, model_name: str) -> Session:
    """Return a session that nothing has been said in. It is created when it is saved first."""
    return Session(SessionHead(secrets.token_hex(4), "", model, model_name, 0, 0.0, 0.0))


def title_of(conversation: Conversation) -> str:
    """Return the first line that says something of the first question, shortened."""
    prompt = conversation.exchanges[0].user if conversation.exchanges else ""
    question = without_attachments(prompt) or prompt
    line = next((" ".join(line.split()) for line in question.splitlines() if line.strip()), "")
    line = line.encode("utf-8", "replace").decode()
    return line if len(line) <= _TITLE_CHARS else line[: _TITLE_CHARS - 1].rstrip() + "…"
