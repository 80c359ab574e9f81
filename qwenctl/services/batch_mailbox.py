"""Where workers' threads leave news for the batch's thread, which sleeps until there is something worth waking for."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any


class Mailbox:
    """A queue that many fill and one empties."""

    def __init__(self) -> None:
        self._items: deque[tuple[Any, Any]] = deque()
        self._filled = threading.Event()

    def put(self, worker: Any, item: Any, *, wakes: bool = True) -> None:
        """Leave an item of `worker`; without `wakes` it may wait until somebody else's does."""
        self._items.append((worker, item))
        if wakes:
            self._filled.set()

    def take_all(self, wait_s: float) -> list[tuple[Any, Any]]:
        """Return all items, the oldest first, as soon as one wakes us or `wait_s` are over."""
        self._filled.wait(wait_s)
        self._filled.clear()
        return [self._items.popleft() for _ in range(len(self._items))]
