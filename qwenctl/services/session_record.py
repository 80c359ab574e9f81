"""Saves one chat while it goes on: after each turn, whatever has changed. Knows neither screens nor models."""

from __future__ import annotations

from dataclasses import replace

from qwenctl.services.conversation import Conversation
from qwenctl.services.session import Session, new_session
from qwenctl.services.session_store import SessionStore


class SessionRecord:
    """The session that a chat is saved as.

    Args:
        session: one to go on with, or a new one.
    """

    def __init__(self, store: SessionStore, session: Session) -> None:
        self.store = store
        self._session = session

    @property
    def saved(self) -> Session | None:
        """The session as it was read or saved last; None while nothing of it is saved."""
        return self._session if self._session.revision else None

    @property
    def saved_id(self) -> str | None:
        """The ID of the session; None while nothing of it is saved."""
        return self.saved.head.session_id if self.saved else None

    def save(self, conversation: Conversation) -> str | None:
        """Save what has changed; return what the user has to be told, if there is something.

        Raises:
            QwenctlError: it cannot be saved. The next call tries again.
        """
        before = self._session
        if conversation == before.conversation:
            return None
        self._session = self.store.save(before, conversation)
        if before.revision and before.head.session_id != self._session.head.session_id:
            gone_on = "was changed or removed by another process"
            return f"session {before.head.session_id} {gone_on}: this chat is now session {self.saved_id}"
        return None

    def start_over(self) -> None:
        """Leave the session as it is saved; what is said from now on is a new one."""
        head = self._session.head
        self._session = new_session(head.model, head.model_name)

    def go_on_with(self, session: Session) -> None:
        """Leave the session as it is saved, and go on with another one, with the same model as before."""
        head = self._session.head
        self._session = replace(session, head=replace(session.head, model=head.model, model_name=head.model_name))
