"""Replies under way: what is lost when somebody gives up, on either thread."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qwenctl.core import Finished, FinishReason, GenerationRequest, TextDelta, Timing, Usage
from qwenctl.errors import PromptTooLong
from qwenctl.services.server.event_inbox import EventInbox
from qwenctl.services.server.exchange import Exchange
from qwenctl.services.server.request_body import ClientGone


class FakeRunner:
    """Notes what it is asked; `fails_at`: the submission that is refused."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.listeners: list[Any] = []
        self.cancelled: list[str] = []
        self.fails_at = fails_at

    def submit(self, request: GenerationRequest, on_events: Any) -> None:
        if len(self.listeners) == self.fails_at:
            raise PromptTooLong(9, 8)
        self.listeners.append(on_events)

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)


def requests(n: int) -> list[GenerationRequest]:
    return [GenerationRequest(f"r{index}", (1, 2, 3)) for index in range(n)]


def finished(name: str) -> Finished:
    return Finished(name, FinishReason.STOP, Usage(3, 0, 1), Timing(0, 0, 0, 1))


def test_events_arrive_in_order_and_then_nothing() -> None:
    async def run() -> None:
        runner = FakeRunner()
        exchange = Exchange(runner, EventInbox(), is_urgent=True)  # type: ignore[arg-type]
        exchange.submit(requests(2))
        runner.listeners[1]([TextDelta("r1", "a", 1)])
        runner.listeners[0]([TextDelta("r0", "b", 1), finished("r0")])
        found = await exchange.arrivals()
        assert [(index, type(event).__name__) for index, event in found] == [
            (1, "TextDelta"), (0, "TextDelta"), (0, "Finished"),
        ]  # fmt: skip
        runner.listeners[1]([finished("r1")])
        assert len(await exchange.arrivals()) == 1
        assert await exchange.arrivals() == []

    asyncio.run(run())


def test_who_is_in_no_hurry_is_woken_once() -> None:
    async def run() -> None:
        runner = FakeRunner()
        exchange = Exchange(runner, EventInbox(), is_urgent=False)  # type: ignore[arg-type]
        exchange.submit(requests(1))
        waiting = asyncio.create_task(exchange.arrivals())
        for number in range(5):
            runner.listeners[0]([TextDelta("r0", "a", number + 1)])
            await asyncio.sleep(0.01)
            assert not waiting.done()
        runner.listeners[0]([finished("r0")])
        assert len(await waiting) == 6

    asyncio.run(run())


def test_a_refused_submission_cancels_the_others() -> None:
    async def run() -> None:
        runner = FakeRunner(fails_at=2)
        exchange = Exchange(runner, EventInbox(), is_urgent=True)  # type: ignore[arg-type]
        with pytest.raises(PromptTooLong):
            exchange.submit(requests(3))
        assert runner.cancelled == ["r0", "r1"]

    asyncio.run(run())


def test_abandoned_before_and_after_submission() -> None:
    async def run() -> None:
        runner = FakeRunner()
        exchange = Exchange(runner, EventInbox(), is_urgent=True)  # type: ignore[arg-type]
        exchange.abandon()
        exchange.submit(requests(2))
        assert runner.cancelled == ["r0", "r1"]
        with pytest.raises(ClientGone):
            await exchange.arrivals()
        other = Exchange(runner, EventInbox(), is_urgent=True)  # type: ignore[arg-type]
        other.submit(requests(1))
        waiting = asyncio.create_task(other.arrivals())
        await asyncio.sleep(0)
        other.abandon()
        with pytest.raises(ClientGone):
            await waiting
        runner.listeners[-1]([finished("r0")])  # too late, and harmless
        await asyncio.sleep(0.01)

    asyncio.run(run())
