"""Saved chats in one SQLite file, readable by its owner only.

SQLite, because a turn must be on the disk when it has been said, whole or not at all, with two chats at once, and
without writing the chat before it again. The rollback journal, not WAL: turns are seconds apart, and a home folder may
lie on a network, where WAL does not work (sqlite.org/wal.html). Without a full-text index: its tokenizers cannot find
words in Chinese or Japanese text, and reading through a thousand chats takes a fraction of a second.

    session     one line a chat: its head, and system prompt and thinking mode as JSON
    exchange    one line an exchange, by number, as JSON: conversation_record.py's
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.services.conversation import Conversation
from qwenctl.services.conversation_record import exchange_record, json_text, read_exchange
from qwenctl.services.session import Session, SessionHead, new_session, title_of

_VERSION = 1
_BUSY_S = 10.0  # how long another chat's write is waited for; it takes milliseconds
_SCHEMA = """
CREATE TABLE session(
    id TEXT PRIMARY KEY, revision INTEGER NOT NULL, title TEXT NOT NULL, model TEXT NOT NULL, model_name TEXT NOT NULL,
    created_s REAL NOT NULL, updated_s REAL NOT NULL, state TEXT NOT NULL);
CREATE TABLE exchange(
    session TEXT NOT NULL REFERENCES session ON DELETE CASCADE, number INTEGER NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY(session, number));
CREATE INDEX session_by_age ON session(updated_s);
PRAGMA user_version = 1;
"""
_HEADS = """
SELECT id, title, model, model_name, (SELECT count(*) FROM exchange WHERE session = session.id), created_s, updated_s
FROM session
"""
_LEAST_ID_CHARS = 4
_HAS_WORD = "EXISTS (SELECT 1 FROM exchange WHERE session = session.id AND holds(content, ?))"
_HAS_PLAIN_WORD = _HAS_WORD.replace("holds", "content LIKE ? AND holds")


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """Which sessions are wanted; the latest come first."""

    words: tuple[str, ...] = ()  # each must occur, in any case, as part of a word too
    model: str | None = None  # part of the model's name
    since_s: float | None = None  # changed at this time or later
    until_s: float | None = None  # and before this one
    limit: int | None = None


class SessionStore:
    """The file. Each call opens it, does one transaction, and closes it.

    Args:
        path: need not exist; the first `save` makes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, session: Session, conversation: Conversation, now_s: float | None = None) -> Session:
        """Bring `session`, as it was read or saved last, to `conversation`; return it as saved.

        One without exchanges is taken out of the store. One that another process has changed or removed meanwhile
        becomes a new session, with an ID of its own: nothing of the other's is lost.

        Raises:
            QwenctlError: the disk refuses.
        """
        now_s = time.time() if now_s is None else now_s
        with self._open(writes=True) as database:
            if session.revision and not _take(database, session, conversation, now_s):
                session = new_session(session.head.model, session.head.model_name)
            head = replace(
                session.head,
                title=title_of(conversation),
                n_exchanges=len(conversation.exchanges),
                created_s=session.head.created_s or now_s,
                updated_s=now_s,
            )
            if not conversation.exchanges:
                database.execute("DELETE FROM session WHERE id = ?", (head.session_id,))
                return Session(head, conversation)
            if not session.revision:
                _insert(database, head, conversation)
            _write_exchanges(database, head.session_id, session.conversation, conversation)
        return Session(head, conversation, session.revision + 1)

    def heads(self, query: SessionQuery = SessionQuery()) -> tuple[SessionHead, ...]:
        """Return what is known of the sessions that `query` wants."""
        conditions, values = _conditions(query)
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        command = f"{_HEADS} {where} ORDER BY updated_s DESC, rowid DESC LIMIT ?"
        with self._open() as database:
            rows = database.execute(command, (*values, -1 if query.limit is None else query.limit)).fetchall()
        return tuple(SessionHead(*row) for row in rows)

    def with_id(self, text: str) -> SessionHead | None:
        """Return the session whose ID is `text` or begins with it, at least four digits; None: there is none.

        Raises:
            InvalidRequest: more than one begins with it.
        """
        if len(text) < _LEAST_ID_CHARS or not text.isascii() or not text.isalnum():
            return None
        with self._open() as database:
            rows = database.execute(f"{_HEADS} WHERE id GLOB ?", (text.lower() + "*",)).fetchall()
        if len(rows) > 1:
            raise InvalidRequest(f"{len(rows)} sessions have an ID that begins with {text}", "write more of it")
        return SessionHead(*rows[0]) if rows else None

    def read(self, session_id: str) -> Session:
        """Return the session with this ID, whole.

        Raises:
            InvalidRequest: there is none.
            QwenctlError: what is stored is damaged.
        """
        with self._open() as database:
            row = database.execute(f"{_HEADS} WHERE id = ?", (session_id,)).fetchone()
            if row is None:
                raise InvalidRequest(f"no session {session_id}", "qwenctl sessions ls lists them")
            revision, state = database.execute(
                "SELECT revision, state FROM session WHERE id = ?", (session_id,)
            ).fetchone()
            contents = database.execute(
                "SELECT content FROM exchange WHERE session = ? ORDER BY number", (session_id,)
            ).fetchall()
        try:
            exchanges = tuple(read_exchange(json.loads(content), n) for n, (content,) in enumerate(contents, 1))
            conversation = Conversation(**json.loads(state), exchanges=exchanges)
        except (TypeError, ValueError) as error:
            raise QwenctlError(f"session {session_id} is damaged: {error}", f"see {self._path}") from error
        return Session(SessionHead(*row), conversation, revision)

    def remove(self, session_ids: Sequence[str]) -> None:
        """Remove sessions; their text is overwritten with zeros."""
        with self._open(writes=True) as database:
            database.executemany("DELETE FROM session WHERE id = ?", [(one,) for one in session_ids])

    @contextmanager
    def _open(self, *, writes: bool = False) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction. One that is not there is made if the transaction `writes`, else empty.

        Raises:
            QwenctlError: it cannot be opened, read or written.
        """
        try:
            if writes and not self._path.exists():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            name = str(self._path) if self._path.exists() else ":memory:"
            with closing(sqlite3.connect(name, timeout=_BUSY_S, isolation_level=None)) as database:
                _prepare(database)
                with _transaction(database, "IMMEDIATE" if writes else "DEFERRED"):
                    yield database
        except (sqlite3.Error, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            hint = "qwenctl chat --no-session keeps nothing; moved away, the file is made anew"
            raise QwenctlError(f"the saved sessions in {self._path} cannot be used: {reason}", hint) from error


def _prepare(database: sqlite3.Connection) -> None:
    """Set what holds for a connection; make the tables of a new file."""
    database.execute("PRAGMA foreign_keys = ON")
    database.execute("PRAGMA secure_delete = ON")
    database.execute("PRAGMA synchronous = FULL")
    database.create_function("holds", 2, _holds, deterministic=True)
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > _VERSION:
        raise sqlite3.DatabaseError(f"a newer qwenctl wrote them, in format {version}; this one knows {_VERSION}")
    if version == 0:
        with _transaction(database, "IMMEDIATE"):  # another process may have been faster
            if database.execute("PRAGMA user_version").fetchone()[0] == 0:
                for command in filter(str.strip, _SCHEMA.split(";")):
                    database.execute(command)


@contextmanager
def _transaction(database: sqlite3.Connection, kind: str) -> Iterator[None]:
    database.execute(f"BEGIN {kind}")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _take(database: sqlite3.Connection, session: Session, conversation: Conversation, now_s: float) -> bool:
    """Update the head of a session; False if it is not there any more as it was saved last."""
    changed = database.execute(
        "UPDATE session SET revision = revision + 1, title = ?, updated_s = ?, state = ?, model = ?, model_name = ?"
        " WHERE id = ? AND revision = ?",
        (
            title_of(conversation),
            now_s,
            _state(conversation),
            _storable(session.head.model),
            _storable(session.head.model_name),
            session.head.session_id,
            session.revision,
        ),
    )
    return changed.rowcount == 1


def _insert(database: sqlite3.Connection, head: SessionHead, conversation: Conversation) -> None:
    database.execute(
        "INSERT INTO session(id, revision, title, model, model_name, created_s, updated_s, state)"
        " VALUES (?, 1, ?, ?, ?, ?, ?, ?)",
        (
            head.session_id,
            head.title,
            _storable(head.model),
            _storable(head.model_name),
            head.created_s,
            head.updated_s,
            _state(conversation),
        ),
    )


def _write_exchanges(
    database: sqlite3.Connection, session_id: str, stored: Conversation, conversation: Conversation
) -> None:
    """Write the exchanges that are not stored yet, and remove those that are no longer said."""
    pairs = zip(stored.exchanges, conversation.exchanges, strict=False)
    n_same = next(
        (number for number, (old, new) in enumerate(pairs) if old != new),
        min(len(stored.exchanges), len(conversation.exchanges)),
    )
    database.execute("DELETE FROM exchange WHERE session = ? AND number > ?", (session_id, n_same))
    database.executemany(
        "INSERT INTO exchange VALUES (?, ?, ?)",
        [
            (session_id, number, json_text(exchange_record(exchange)))
            for number, exchange in enumerate(conversation.exchanges[n_same:], n_same + 1)
        ],
    )


def _state(conversation: Conversation) -> str:
    return json_text({"system": conversation.system, "thinking": conversation.thinking})


def _storable(text: str) -> str:
    """Return `text` as SQLite takes it. What stands for a byte that is no UTF-8, in the name of a file, is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _conditions(query: SessionQuery) -> tuple[list[str], list[str | float]]:
    conditions, values = [], list[str | float]()
    for word in map(_storable, query.words):
        # SQLite's own LIKE passes over most exchanges, so that few have to be parsed; JSON leaves letters as they are.
        is_plain = word.isascii() and word.isalnum()
        conditions.append(_HAS_PLAIN_WORD if is_plain else _HAS_WORD)
        values += [f"%{word}%", word.casefold()] if is_plain else [word.casefold()]
    if query.model is not None:
        conditions.append("instr(lower(model_name), ?)")
        values.append(_storable(query.model.lower()))
    if query.since_s is not None:
        conditions.append("updated_s >= ?")
        values.append(query.since_s)
    if query.until_s is not None:
        conditions.append("updated_s < ?")
        values.append(query.until_s)
    return conditions, values


def _holds(content: str, word: str) -> bool:
    """Tell whether question or answer of an exchange hold `word`, which is casefolded."""
    said = json.loads(content)
    return word in said["user"].casefold() or word in (said["answer"] or "").casefold()
