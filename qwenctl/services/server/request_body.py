"""The JSON body of a request, within limits of size, time, depth and pieces."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope

from qwenctl.services.api.api_errors import ApiError
from qwenctl.services.api.body_fields import BadRequest, parse_json
from qwenctl.services.server.asgi_answers import Refused
from qwenctl.services.server.server_options import ServerLimits
from qwenctl.units import format_memory

_SMALL_BYTES = 64 << 10  # parsed at once; more would hold up everybody else
# Values of a body: an empty list takes 56 bytes of memory for the two or three of its text.
_MOST_VALUES = 2_000_000
_SWALLOWED = 16  # times the limit; a client that is told in mid-body would see a broken connection, not the answer


class ClientGone(Exception):
    """The client has closed the connection."""


class BodyReader:
    """Reads bodies; large ones are parsed one at a time, so that memory stays bounded."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._large = asyncio.Lock()

    async def read(self, scope: Scope, receive: Receive) -> Any:
        """Return the parsed body.

        Raises:
            Refused: too large, too slow, or not sent as JSON text.
            BadRequest: no JSON, or nested too deeply.
            ClientGone: the client went away.
        """
        try:
            async with asyncio.timeout(self._limits.body_s):
                data = await self._read(receive)
        except TimeoutError:
            message = f"the body did not arrive within {self._limits.body_s:g} s"
            raise Refused(ApiError(408, message, code="request_timeout"), closes=True) from None
        if dict(scope["headers"]).get(b"content-encoding", b"identity") != b"identity":
            raise Refused(ApiError(415, "compressed bodies are not read", code="unsupported_media_type"))
        if len(data) <= _SMALL_BYTES:
            return parse_json(data)
        if sum(map(data.count, (b",", b"[", b"{"))) > _MOST_VALUES:
            raise BadRequest("the body has too many parts")
        async with self._large:
            return await asyncio.to_thread(parse_json, data)

    async def _read(self, receive: Receive) -> bytes:
        limit, parts, n_bytes = self._limits.body_bytes, list[bytes](), 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise ClientGone
            part = message.get("body", b"")
            n_bytes += len(part)
            is_last = not message.get("more_body", False)
            if n_bytes <= limit:
                parts.append(part)
            elif is_last or n_bytes > limit * _SWALLOWED:
                error = ApiError(413, f"the body is larger than {format_memory(limit)}", code="request_too_large")
                raise Refused(error, closes=True)
            else:
                parts.clear()
            if is_last:
                return b"".join(parts)
