"""The requests of an engine: new, waiting, or running in a slot; who is let in, and how each leaves.

    add ──► new ──► waiting ──► running (has a slot) ──► gone
                        ▲            │
                        └────────────┘ held back: its cells are needed by older ones

First come, first served. One thread uses this, but for `add`. Knows nothing of computing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from qwenctl.core import FinishReason, GenerationEvent
from qwenctl.services.kv_cache import KvCache
from qwenctl.services.live_request import LiveRequest
from qwenctl.services.prefix_cache.memory_only import MemoryOnly
from qwenctl.services.step_plan import Pending


class RequestLine:
    """The requests that have not had their last event.

    Args:
        cache: whose slots they get.
        prefixes: prompts kept elsewhere.
        n_parallel: that may run at the same time.
    """

    def __init__(self, cache: KvCache, prefixes: MemoryOnly, n_parallel: int) -> None:
        self.running: list[LiveRequest] = []  # in order of admission
        self.names: set[str] = set()  # of all
        self._cache = cache
        self._prefixes = prefixes
        self._n_parallel = n_parallel
        self._incoming: deque[LiveRequest] = deque()
        self._waiting: deque[LiveRequest] = deque()
        self._n_ended = 0

    def __bool__(self) -> bool:
        return bool(self._incoming or self._waiting or self.running)

    def add(self, request: LiveRequest) -> None:
        """Take a new one. From any thread."""
        self.names.add(request.request_id)
        self._incoming.append(request)

    def all(self) -> list[LiveRequest]:
        """Return every request, the running ones first, and take over those that were added meanwhile."""
        while self._incoming:
            self._waiting.append(self._incoming.popleft())
        return [*self.running, *self._waiting]

    def named(self, names: set[str]) -> list[LiveRequest]:
        """Return the requests of these names, and empty the set, to which other threads may add."""
        requests = self.all()
        wanted = {names.pop() for _ in range(len(names))}
        return [one for one in requests if one.request_id in wanted]

    def admit(self) -> None:
        """Give slots to waiting requests."""
        while self._waiting and len(self.running) < self._n_parallel:
            request = self._waiting[0]
            if self.running and request.waits_for_end == self._n_ended:
                return
            placement = self._cache.place(request.tokens, request.n_may_follow)
            if placement is None:
                return
            self._waiting.popleft()
            slot = self._cache.take(placement, tuple(request.tokens))
            request.admit(slot)
            self.running.append(request)  # before what takes time: an interrupt must not lose the request
            request.restored(self._prefixes.restore(self._cache, slot, request.tokens))

    def hold_back(self, request: LiveRequest) -> None:
        """Take a request's cells away; it is computed again when another one has ended."""
        if request.slot:
            self._cache.clear(request.slot)
            self._cache.give_back(request.slot)
        request.slot = None
        request.waits_for_end = self._n_ended
        self.running.remove(request)
        self._waiting.appendleft(request)

    def end(
        self, requests: Sequence[LiveRequest], reason: FinishReason, error: str | None = None
    ) -> list[GenerationEvent]:
        """Finish requests; returns their last events."""
        events: list[GenerationEvent] = []
        for request in requests:
            events += request.finish(reason, error)
            self.leave(request)
        return events

    def leave(self, request: LiveRequest) -> None:
        """The request has had its last event."""
        if request.slot:
            self._cache.give_back(request.slot)
            self._prefixes.offer(request.slot, request.n_prompt)
            request.slot = None
            self.running.remove(request)
        else:
            with suppress(ValueError):
                self._waiting.remove(request)
        self.names.discard(request.request_id)
        self._n_ended += 1

    def pending(self) -> list[Pending]:
        """Return the running requests as step_plan.py sees them."""
        return [Pending(one.slot.index, len(one.slot.tokens), len(one.tokens)) for one in self.running if one.slot]

    def by_slot(self) -> dict[int, LiveRequest]:
        """Return the running requests by the number of their slots."""
        return {one.slot.index: one for one in self.running if one.slot}
