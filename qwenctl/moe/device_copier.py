"""A thread that copies to devices beside the steps. Knows nothing of what it copies, and of experts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from qwenctl.errors import ExpertReadFailed
from qwenctl.moe.read_queue import ReadTicket

Work = Callable[[], None]


class DeviceCopier:
    """Does one thing after the other. Close it before what it copies from or to is freed."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[tuple[ReadTicket, Work] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="device-copier", daemon=True)
        self._thread.start()

    def submit(self, what: str, work: Work) -> ReadTicket:
        """Queue a function that copies.

        Args:
            what: the name of it in errors.
            work: called in the thread.

        Returns:
            The ticket: done when the function has returned, failed if it raised.
        """
        ticket = ReadTicket(what, 1)
        self._queue.put((ticket, work))
        return ticket

    def close(self) -> None:
        """Give up what was not begun, and wait for the rest. May be called again."""
        while not self._queue.empty():
            entry = self._queue.get()
            if entry is not None:
                entry[0].cancel()
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (entry := self._queue.get()) is not None:
            ticket, work = entry
            error: ExpertReadFailed | None = None
            if ticket.begin_part():
                try:
                    work()
                except Exception as problem:
                    error = ExpertReadFailed(f"{ticket.what}: {problem}")
            ticket.end_part(error)
