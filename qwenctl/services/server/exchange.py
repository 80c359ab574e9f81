"""One request of a client: the replies that it has under way, whose events are awaited together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from qwenctl.core import Finished, GenerationEvent, GenerationRequest
from qwenctl.services.server.event_inbox import EventInbox
from qwenctl.services.server.request_body import ClientGone
from qwenctl.services.serving.engine_runner import EngineRunner

_MOST_HELD = 50_000  # events that a client may be behind; each is a token or more

Arrival = tuple[int, GenerationEvent]


class Exchange:
    """Replies under way, numbered from 0.

    Args:
        is_urgent: whether events are wanted as they come, not only all at the end.
    """

    def __init__(self, runner: EngineRunner, inbox: EventInbox, *, is_urgent: bool) -> None:
        self.is_urgent = is_urgent
        self.n_prompt_tokens = 0  # of the first reply
        self._runner = runner
        self._inbox = inbox
        self._names: list[str] = []
        self._n_left = 0
        self._held: list[Arrival] = []
        self._news: asyncio.Future[None] | None = None
        self._is_abandoned = False

    def submit(self, requests: Sequence[GenerationRequest]) -> None:
        """Start a reply to each of `requests`. May be called on another thread than the loop's; not by two at once.

        Raises:
            QwenctlError: as `EngineRunner.submit`; what was started is cancelled.
        """
        self._n_left = len(requests)
        self.n_prompt_tokens = len(requests[0].prompt_tokens)
        try:
            for index, request in enumerate(requests):
                self._runner.submit(request, partial(self._inbox.deliver, self, index))
                self._names.append(request.request_id)
        except BaseException:
            self._is_abandoned = True
            raise
        finally:
            if self._is_abandoned:  # here, or on the loop while this was under way
                self._cancel()

    async def arrivals(self) -> list[Arrival]:
        """Return what came since the last call, in order; wait for it. [] when all replies have ended.

        Raises:
            ClientGone: `abandon` was called.
        """
        while not self._held:
            if self._is_abandoned:
                raise ClientGone
            if not self._n_left:
                return []
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        if self._is_abandoned:
            raise ClientGone
        held, self._held = self._held, []
        self._n_left -= sum(isinstance(event, Finished) for _, event in held)
        return held

    def end_thinking(self) -> None:
        """Let all replies answer now."""
        for name in self._names:
            self._runner.end_thinking(name)

    def abandon(self) -> None:
        """End everything: nobody listens any more. On the loop."""
        self._is_abandoned = True
        self._cancel()
        self._wake()

    def take(self, index: int, events: Sequence[GenerationEvent]) -> None:
        """Accept events, on the loop."""
        if self._is_abandoned:
            return
        self._held += [(index, event) for event in events]
        if len(self._held) > _MOST_HELD and self.is_urgent:
            self.abandon()
        elif self.is_urgent or isinstance(events[-1], Finished):
            self._wake()

    def _cancel(self) -> None:
        for name in list(self._names):
            self._runner.cancel(name)

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
