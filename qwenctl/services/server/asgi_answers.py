"""Whole answers as ASGI messages, and errors in the shape of the API that was asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.types import Scope, Send

from qwenctl.services.api.api_errors import ApiError
from qwenctl.services.api.event_bytes import encode_json

Header = tuple[bytes, bytes]

_RETRY_CLOSING_S = 30

JSON_TYPE: Header = (b"content-type", b"application/json")
CLOSE: Header = (b"connection", b"close")
SAFETY: tuple[Header, ...] = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


class Refused(Exception):
    """A request is answered with an error.

    Args:
        closes: whether the connection can be used no further.
    """

    def __init__(self, error: ApiError, *, closes: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.closes = closes


def shutting_down() -> Refused:
    """Return what everybody is told who comes too late, or is not done in time."""
    return Refused(ApiError(503, "the server is shutting down", None, "shutting_down", _RETRY_CLOSING_S), closes=True)


async def send_bytes(send: Send, status: int, body: bytes, headers: Sequence[Header]) -> None:
    """Send a whole answer."""
    length = (b"content-length", str(len(body)).encode("ascii"))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *SAFETY, length]})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, value: Any, status: int = 200, headers: Sequence[Header] = ()) -> None:
    """Send `value` as JSON."""
    await send_bytes(send, status, encode_json(value), [JSON_TYPE, *headers])


async def send_error(scope: Scope, send: Send, error: ApiError, *, closes: bool = False) -> None:
    """Send `error` in the shape of the API that `scope` asks."""
    headers: list[Header] = [CLOSE] if closes else []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(error.retry_after_s).encode("ascii")))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send_json(send, error_body(scope, error), error.status, headers)


def error_body(scope: Scope, error: ApiError) -> dict[str, Any]:
    """Return `error` in the shape of the API that `scope` asks."""
    return error.anthropic() if scope["path"].startswith("/v1/messages") else error.openai()
