"""Which saved chat somebody means: the latest, an ID, or words that occur in it."""

from __future__ import annotations

from typing import NamedTuple

from qwenctl.errors import InvalidRequest
from qwenctl.services.session import SessionHead
from qwenctl.services.session_store import SessionQuery, SessionStore
from qwenctl.settings import Settings

_FILE = "sessions.db"


class FoundSession(NamedTuple):
    """The session that was meant, and how many older ones hold the same words."""

    head: SessionHead
    n_others: int = 0


def open_store(settings: Settings) -> SessionStore:
    """Return the place of the user's sessions. Nothing is opened yet."""
    return SessionStore(settings.data_dir / _FILE)


def latest_session(store: SessionStore) -> FoundSession:
    """Return the session that was changed last.

    Raises:
        InvalidRequest: there is none.
    """
    heads = store.heads(SessionQuery(limit=1))
    if not heads:
        raise InvalidRequest("no chat has been saved yet", "qwenctl chat begins one, and saves it by itself")
    return FoundSession(heads[0])


def find_session(store: SessionStore, text: str) -> FoundSession:
    """Return the session with the ID `text`, or the beginning of one; else the latest that holds all words of `text`.

    Raises:
        InvalidRequest: there is none, or several IDs begin with `text`.
    """
    if (head := store.with_id(text)) is not None:
        return FoundSession(head)
    words = tuple(text.split())
    heads = store.heads(SessionQuery(words)) if words else ()
    if not heads:
        raise InvalidRequest(f"no saved chat has the ID or the words {text!r}", "qwenctl sessions ls lists them")
    return FoundSession(heads[0], len(heads) - 1)


def session_by_id(store: SessionStore, text: str) -> SessionHead:
    """Return the session with the ID `text`, or the beginning of one. For what words are too vague for.

    Raises:
        InvalidRequest: there is none, or there are several.
    """
    head = store.with_id(text)
    if head is None:
        raise InvalidRequest(f"no session has the ID {text}", f'qwenctl sessions ls --search "{text}" finds words')
    return head
