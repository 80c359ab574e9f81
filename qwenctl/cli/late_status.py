"""A line about work that nobody would need to hear of if it were quick: it comes after a while and goes at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

SHOWN_AFTER_S = 1.5
_REDRAWN_EVERY_S = 0.5


class LateStatus:
    """Shows a line while it is open, from 1.5 s on. A context manager.

    Args:
        show: puts a line in the place of the last one; "" takes it away. Also called from a thread of its own.
        line: what there is to say now.
    """

    def __init__(self, show: Callable[[str], None], line: Callable[[], str]) -> None:
        self._show, self._line = show, line
        self._lock = threading.Lock()  # held while something is shown
        self._over = threading.Event()
        self._shown = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._redraw, name="status", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Take the line away, now. Nothing is shown any more."""
        if self._over.is_set():
            return
        with self._lock:
            self._over.set()
            if self._shown:
                self._show("")

    def _redraw(self) -> None:
        wait_s = SHOWN_AFTER_S
        while not self._over.wait(wait_s):
            wait_s = _REDRAWN_EVERY_S
            with self._lock:
                if not self._over.is_set():
                    self._shown = True
                    self._show(self._line())
