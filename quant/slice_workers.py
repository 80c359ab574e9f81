"""Do slices on worker threads, in order of number, until none is left, one fails, or they are told to stop.

numpy, ctypes and the system calls release the interpreter lock, so threads scale. The thread that started them makes
finished slices durable meanwhile. Knows nothing of what a slice is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MAX_UNSYNCED_BYTES = 512 << 20
"""Workers wait while more than this is written but not synced: a slow disk must not fill memory with dirty pages."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A slice that was written; not yet synced."""

    number: int
    crc32: int
    n_bytes: int
    n_weights: int


class SliceWorkers:
    """The threads and what they have finished.

    Args:
        todo: slice numbers.
        encode: does the slice of a number; called from several threads at once.
        n_threads: how many.
    """

    def __init__(self, todo: Sequence[int], encode: Callable[[int], Finished], n_threads: int) -> None:
        self._todo = iter(todo)
        self._encode = encode
        self._changed = threading.Condition()
        self._finished: list[Finished] = []
        self._unsynced_bytes = 0
        self._stopped = False
        self._error: BaseException | None = None
        self._n_running = n_threads
        self._threads = [threading.Thread(target=self._work, name=f"encode-{i}") for i in range(n_threads)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Wait until all have ended, or `timeout_s`; return whether any still works."""
        with self._changed:
            self._changed.wait_for(lambda: self._n_running == 0, timeout_s)
            return self._n_running > 0

    def take_finished(self) -> list[Finished]:
        """Return the slices finished since the last call. Tell `synced` when they are on the disk."""
        with self._changed:
            finished, self._finished = self._finished, []
            return finished

    def synced(self, n_bytes: int) -> None:
        """Say that `n_bytes` of what was taken are on the disk."""
        with self._changed:
            self._unsynced_bytes -= n_bytes
            self._changed.notify_all()

    def stop(self) -> None:
        """Let every thread end after its slice, and wait for that."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:  # started
                thread.join()

    def raise_error(self) -> None:
        """Raise what a thread has raised, if one did."""
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            while (number := self._next()) is not None:
                self._deliver(self._encode(number))
        except BaseException as error:
            with self._changed:
                self._stopped = True
                self._error = self._error or error
        finally:
            with self._changed:
                self._n_running -= 1
                self._changed.notify_all()

    def _next(self) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._unsynced_bytes < MAX_UNSYNCED_BYTES)
            return None if self._stopped else next(self._todo, None)

    def _deliver(self, finished: Finished) -> None:
        with self._changed:
            self._finished.append(finished)
            self._unsynced_bytes += finished.n_bytes
