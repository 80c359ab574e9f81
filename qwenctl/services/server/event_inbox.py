"""The engine's events on their way from the runner's thread to the event loop: one wake-up a step for all requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from qwenctl.core import Finished, GenerationEvent


class Recipient(Protocol):
    """Who waits for events."""

    @property
    def is_urgent(self) -> bool:
        """Whether it wants events as they come; otherwise the last one is early enough."""

    def take(self, index: int, events: Sequence[GenerationEvent]) -> None:
        """Accept events of one reply, on the loop's thread."""


class EventInbox:
    """Made on the event loop that is to get the events."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._mail: deque[tuple[Recipient, int, Sequence[GenerationEvent]]] = deque()
        self._is_woken = False

    def deliver(self, recipient: Recipient, index: int, events: Sequence[GenerationEvent]) -> None:
        """Accept events on the runner's thread."""
        self._mail.append((recipient, index, events))
        if not self._is_woken and (recipient.is_urgent or isinstance(events[-1], Finished)):
            self._is_woken = True
            self._loop.call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        self._is_woken = False  # before the mail is taken: what comes from now on wakes anew
        for _ in range(len(self._mail)):
            recipient, index, events = self._mail.popleft()
            recipient.take(index, events)
