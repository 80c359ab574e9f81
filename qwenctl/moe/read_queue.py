"""What waits to be read, in two ranks, and the tickets by which the waiting is done. Knows nothing of files.

A queue entry is one part of a ticket. Each idle thread sleeps on a lock of its own: whoever submits opens as many of
them as there are new parts, so that nobody wakes in vain and nothing is handed on from thread to thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from qwenctl.errors import ExpertReadFailed
from qwenctl.moe.expert_map import Slice

Destination = int | Callable[[int], None]


class ReadTicket:
    """One thing that is read, in parts; done when no thread touches its destinations any more.

    Attributes:
        what: its name in errors.
        error: what went wrong first, None while nothing did.
        done: whether all parts have arrived, or the ticket has failed or was cancelled, and nothing is under way.
    """

    __slots__ = ("_finished", "_lock", "_n_left", "_started", "done", "error", "what")

    def __init__(self, what: str, n_parts: int) -> None:
        self.what = what
        self.error: ExpertReadFailed | None = None
        self.done = False
        self._started = False
        self._n_left = n_parts
        self._lock = threading.Lock()
        self._finished = threading.Lock()  # held until done
        self._finished.acquire()
        if n_parts == 0:
            self._finish()

    def wait(self) -> None:
        """Wait until the ticket is done.

        Raises:
            ExpertReadFailed: it could not be read, or was cancelled.
        """
        if not self.done:
            with self._finished:
                pass
        if self.error is not None:
            raise self.error

    def cancel(self) -> bool:
        """Give the ticket up and return True if no thread has begun with it; what has begun is finished."""
        with self._lock:
            if self._started or self.done:
                return False
            self.error = ExpertReadFailed(f"{self.what}: the read was cancelled")
            self._finish()
            return True

    def begin_part(self) -> bool:
        """Tell a thread whether it shall read its part: not after a failure or a cancel."""
        with self._lock:
            self._started = True
            return self.error is None

    def end_part(self, error: ExpertReadFailed | None) -> None:
        """Note that a part was read, has failed or was left out."""
        with self._lock:
            if error is not None and self.error is None:
                self.error = error
            self._n_left -= 1
            if self._n_left == 0 and not self.done:
                self._finish()

    def _finish(self) -> None:
        self.done = True
        self._finished.release()


QueueEntry = tuple[ReadTicket, Slice, Destination]


class ReadQueue:
    """First in, first out, with those that somebody waits for before the others."""

    def __init__(self) -> None:
        self._urgent: deque[QueueEntry] = deque()
        self._later: deque[QueueEntry] = deque()
        self._idle: list[threading.Lock] = []
        self._lock = threading.Lock()
        self._closed = False

    def put(self, entries: list[QueueEntry], *, urgent: bool) -> bool:
        """Queue entries and wake threads for them; False after `close`."""
        with self._lock:
            if self._closed:
                return False
            (self._urgent if urgent else self._later).extend(entries)
            woken = self._idle[-len(entries) :] if entries else []
            del self._idle[len(self._idle) - len(woken) :]
        for sleeper in woken:
            sleeper.release()
        return True

    def get(self, sleeper: threading.Lock) -> QueueEntry | None:
        """Return the next entry, waiting for one; None once the queue is closed.

        Args:
            sleeper: the calling thread's own lock, held by it.
        """
        while True:
            with self._lock:
                if self._closed:
                    return None
                if self._urgent:
                    return self._urgent.popleft()
                if self._later:
                    return self._later.popleft()
                self._idle.append(sleeper)
            sleeper.acquire()

    def close(self) -> list[QueueEntry]:
        """Let all threads go home; return what nobody began with."""
        with self._lock:
            self._closed = True
            left = [*self._urgent, *self._later]
            self._urgent.clear()
            self._later.clear()
            woken, self._idle = self._idle, []
        for sleeper in woken:
            sleeper.release()
        return left
