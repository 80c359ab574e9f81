"""Server-sent events to one client, who may read slowly but not for ever, and may go away at any time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive, Scope, Send

from qwenctl.services.server.asgi_answers import SAFETY
from qwenctl.services.server.exchange import Exchange
from qwenctl.services.server.request_body import ClientGone

ABORT = "qwenctl.abort"  # in the scope: closes the connection at once, unsent data and all; see http_connection.py

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
    *SAFETY,
]


@asynccontextmanager
async def watch_client(receive: Receive, exchange: Exchange) -> AsyncIterator[None]:
    """Abandon `exchange` as soon as the client closes its connection. The body must have been read."""
    watch = asyncio.get_running_loop().create_task(_watch(receive, exchange))
    try:
        yield
    except BaseException:
        exchange.abandon()
        raise
    finally:
        watch.cancel()


async def _watch(receive: Receive, exchange: Exchange) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    exchange.abandon()


class EventStream:
    """The stream of one answer.

    Args:
        stall_s: how long the client may leave data unread.
    """

    def __init__(self, scope: Scope, send: Send, stall_s: float) -> None:
        self._scope = scope
        self._send = send
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._writing_since_s: float | None = None
        self._task = asyncio.current_task()
        self._is_stalled = False
        self._timer = self._loop.call_later(stall_s, self._look)

    async def begin(self) -> None:
        """Send the head."""
        await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})

    async def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Send events.

        Raises:
            ClientGone: the client did not read for too long; the connection is closed.
        """
        self._writing_since_s = self._loop.time()
        try:
            await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})
        except asyncio.CancelledError:
            if not self._is_stalled:
                raise
            if self._task is not None:
                self._task.uncancel()
            self._scope.get(ABORT, _nothing)()
            raise ClientGone from None
        finally:
            self._writing_since_s = None

    async def end(self, data: bytes) -> None:
        """Send the last events."""
        await self.write(data, is_last=True)

    def close(self) -> None:
        """Forget the timer."""
        self._timer.cancel()

    def _look(self) -> None:
        """One timer a stream, not one a write: writes are as frequent as tokens."""
        since_s = self._writing_since_s
        if since_s is not None and self._loop.time() - since_s >= self._stall_s and self._task is not None:
            self._is_stalled = True
            self._task.cancel()
            return
        self._timer = self._loop.call_later(self._stall_s / 2, self._look)


def _nothing() -> None:
    """Stand in where the connection cannot be reached: in tests without one."""
