"""A thread for long native calls, so that the caller can be interrupted while one runs.

Python handles signals between bytecodes of the main thread: a Ctrl-C during a native call of half a minute would be
noticed half a minute later. Waiting for another thread, in contrast, is interruptible. All calls come from one thread,
because OpenMP keeps a pool of workers for every thread that calls it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class NativeThread:
    """Runs one call at a time.

    Args:
        interrupt: called when waiting is interrupted (KeyboardInterrupt): makes the running call return soon.
    """

    def __init__(self, name: str, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[object, BaseException | None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def run(self, call: Callable[[], T]) -> T:
        """Return what `call` returns or raise what it raises.

        Raises:
            BaseException: the wait was interrupted; `call` has been made to return before this is raised.
        """
        try:
            self._calls.put(call)  # CPython looks for signals after a call, not before it: an answer will come
            result, error = self._results.get()
        except BaseException:
            self._interrupt()
            self._drain()
            raise
        if error:
            raise error
        return result  # type: ignore[return-value]

    def close(self) -> None:
        """End the thread."""
        self._calls.put(None)
        self._thread.join()

    def _drain(self) -> None:
        """Wait for the answer to a call that nobody wants any more, however often the wait is interrupted."""
        while True:
            try:
                self._results.get()
            except KeyboardInterrupt:
                continue
            return

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                self._results.put((call(), None))
            except BaseException as error:  # for the caller
                self._results.put((None, error))
