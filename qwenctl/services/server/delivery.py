"""Replies to their client, collected or as they come: what the endpoints of all APIs do alike."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from starlette.types import Scope, Send

from qwenctl.core import Finished, GenerationEvent
from qwenctl.services.reply import ReplyDone
from qwenctl.services.server.asgi_answers import Refused, error_body
from qwenctl.services.server.desk import Desk
from qwenctl.services.server.exchange import Arrival, Exchange
from qwenctl.services.server.model_host import LoadedModel
from qwenctl.services.server.reply_writer import EventStream

_KEEP_ALIVE_S = 10.0


class Reader(Protocol):
    """Reads one reply."""

    done: ReplyDone | None

    def take(self, event: GenerationEvent) -> object:
        """Accept the next event."""


class Encoder(Protocol):
    """Makes the server-sent events of one answer, in the form of one API."""

    def begin(self) -> bytes:
        """Return what comes before everything else."""

    def sign_of_life(self) -> bytes:
        """Return what keeps the connection from being taken for dead."""

    def events(self, arrivals: Sequence[Arrival]) -> bytes:
        """Return what `arrivals` bring.

        Raises:
            Refused: a reply did not end as it should.
        """

    def failure(self, error: Mapping[str, Any]) -> bytes:
        """Return what ends an answer that failed."""

    def end(self) -> bytes:
        """Return what ends an answer."""


async def collect(desk: Desk, model: LoadedModel, exchange: Exchange, readers: Sequence[Reader]) -> None:
    """Let `readers` read their replies to the end.

    Raises:
        Refused: one did not end as it should.
    """
    while arrivals := await exchange.arrivals():
        for index, event in arrivals:
            reader = readers[index]
            reader.take(event)
            if isinstance(event, Finished) and reader.done is not None:
                desk.ended(reader.done, model)


async def stream(desk: Desk, scope: Scope, send: Send, exchange: Exchange, encoder: Encoder) -> None:
    """Send an answer as it comes; what fails on the way is its last event."""
    events = EventStream(scope, send, desk.options.limits.stall_s)
    try:
        await events.begin()
        await events.write(encoder.begin())
        try:
            arrivals = await _first_arrivals(exchange, events, encoder.sign_of_life())
            while arrivals:
                if data := encoder.events(arrivals):
                    await events.write(data)
                arrivals = await exchange.arrivals()
        except Refused as refused:
            exchange.abandon()
            await events.end(encoder.failure(error_body(scope, refused.error)))
            return
        await events.end(encoder.end())
    finally:
        events.close()


async def _first_arrivals(exchange: Exchange, events: EventStream, sign_of_life: bytes) -> list[Arrival]:
    """Return the first events; a long prompt takes its time, and proxies take silence for death."""
    while True:
        try:
            async with asyncio.timeout(_KEEP_ALIVE_S):
                return await exchange.arrivals()
        except TimeoutError:
            await events.write(sign_of_life)
