"""uvicorn's HTTP connection with time limits of our own: for the headers of each request, and none after that.

uvicorn has a limit for idle connections between requests, but none for one that was opened and says nothing, or half
of something. A request's scope also gets a way to close the connection at once (reply_writer.ABORT).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from qwenctl.services.server.reply_writer import ABORT


class LimitedConnection(H11Protocol):
    """A connection that is closed when the headers do not come in time."""

    header_s = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._inner: Any = self.app
        self.app = self._app

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        scope[ABORT] = self.transport.abort
        await self._inner(scope, receive, send)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        _send_at_once(transport.get_extra_info("socket"))
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of another request on a connection that was kept begin its time."""
        cycle = self.cycle
        super().data_received(data)
        if self.cycle is not cycle:  # a request's headers are complete
            self._stop_timer()
        elif self._header_timer is None and (cycle is None or cycle.response_complete):
            self._expect_headers()

    def on_response_complete(self) -> None:
        """An answer has been sent."""
        super().on_response_complete()
        self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_timer()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._stop_timer()
        self._header_timer = self.loop.call_later(self.header_s, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None


def _send_at_once(connection: socket.socket) -> None:
    """Let no small piece of a stream wait for the client's word on the one before, which takes Linux' clients 40 ms.

    asyncio does it for sockets whose protocol is TCP by name; those of socket.create_server say 0, whichever fits.
    """
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def connection_class(header_s: float) -> type[asyncio.Protocol]:
    """Return the class of connections with `header_s` for each request's headers."""
    return type("TimedConnection", (LimitedConnection,), {"header_s": header_s})
