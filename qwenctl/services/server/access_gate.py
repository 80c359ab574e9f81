"""The gate that every request passes: access rules, CORS, and what became of errors. ASGI middleware."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwenctl.errors import QwenctlError
from qwenctl.services.api.api_errors import ApiError, api_error
from qwenctl.services.server.access_rules import AccessRules
from qwenctl.services.server.asgi_answers import Header, Refused, send_bytes, send_error
from qwenctl.services.server.request_body import ClientGone
from qwenctl.services.server.server_metrics import ServerMetrics

_log = logging.getLogger("qwenctl.server")
_HEADERS = b"authorization, content-type, x-api-key, anthropic-version, anthropic-beta"


class AccessGate:
    """Lets pass what may, and answers for the rest and for what failed inside."""

    def __init__(self, app: ASGIApp, rules: AccessRules, metrics: ServerMetrics) -> None:
        self._app = app
        self._rules = rules
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        sender = _Sender(send, _cors_headers(self._rules.allowed_origin(headers.get("origin"))))
        try:
            refusal = self._rules.refusal(scope["method"], scope["path"], headers)
            if scope["method"] == "OPTIONS" and (refusal is None or refusal.status == 401):
                await send_bytes(sender, 204, b"", ())
            elif refusal is not None:
                await send_error(scope, sender, refusal, closes="content-length" in headers)
            else:
                await self._app(scope, receive, sender)
        except Refused as refused:
            await self._fail(scope, sender, refused.error, closes=refused.closes)
        except QwenctlError as error:
            await self._fail(scope, sender, api_error(error), closes=False)
        except ClientGone:
            pass
        except Exception:
            _log.exception("a request to %s failed", scope["path"])
            await self._fail(scope, sender, ApiError(500, "the server has a bug", code="server_error"), closes=True)
        finally:
            self._metrics.count_request(scope["method"], scope["path"], sender.status)

    async def _fail(self, scope: Scope, sender: _Sender, error: ApiError, *, closes: bool) -> None:
        if sender.status is None:
            await send_error(scope, sender, error, closes=closes)


class _Sender:
    """`send` that remembers the status and adds headers."""

    def __init__(self, send: Send, headers: list[Header]) -> None:
        self._send = send
        self._headers = headers
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._headers:
                message = {**message, "headers": [*message["headers"], *self._headers]}
        await self._send(message)


def _cors_headers(origin: str | None) -> list[Header]:
    if origin is None:
        return []
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", _HEADERS),
        (b"access-control-expose-headers", b"retry-after"),
        (b"access-control-max-age", b"600"),
        (b"vary", b"origin"),
    ]
