"""GET /health, /ready, /metrics and /v1/models: what a server says of itself."""

from __future__ import annotations

from typing import Any

from starlette.types import Receive, Scope, Send

from qwenctl import __version__
from qwenctl.services.server.asgi_answers import send_bytes, send_json
from qwenctl.services.server.desk import Desk
from qwenctl.services.server.server_metrics import CONTENT_TYPE


class HealthEndpoint:
    """Says that the process lives, and how many answers it computes at once."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer a request."""
        await send_json(send, {"status": "ok", "version": __version__, "n_parallel": self._desk.n_parallel})


class ReadyEndpoint:
    """Says whether a request would be answered now; one that loads the model first counts."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer a request."""
        host, admission = self._desk.host, self._desk.admission
        state = "draining" if admission.is_draining else host.state
        running, waiting = host.load
        value = {"status": state, "model": host.source.name, "running": running, "waiting": waiting}
        await send_json(send, value, 503 if state in ("draining", "loading") else 200)


class MetricsEndpoint:
    """Shows counters."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer a request."""
        await send_bytes(send, 200, self._desk.metrics.text(), [(b"content-type", CONTENT_TYPE)])


class ModelsEndpoint:
    """Lists the models that may be asked for, or shows the one that the path names."""

    def __init__(self, desk: Desk, started_s: int) -> None:
        self._desk = desk
        self._started_s = started_s

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer a request."""
        host, name = self._desk.host, scope["path_params"].get("name")
        if name is not None:
            await send_json(send, self._entry(host.resolve(name)))
            return
        others = host.source.others() if self._desk.options.allow_switch else ()
        names = [host.source.name, *(other for other in others if other != host.source.name)]
        await send_json(send, {"object": "list", "data": [self._entry(one) for one in names]})

    def _entry(self, name: str) -> dict[str, Any]:
        entry = {"id": name, "object": "model", "created": self._started_s, "owned_by": "qwenctl"}
        model = self._desk.host.current
        if model is None or model.name != name:
            return entry | {"meta": {"loaded": False}}
        info, able = model.info, model.chat.capabilities
        return entry | {
            "meta": {
                "loaded": True,
                "n_ctx": info.n_ctx,
                "n_ctx_train": info.n_ctx_train,
                "n_parallel": model.opened.n_parallel,
                "n_weights": info.n_weights,
                "architecture": info.architecture,
                "thinking": able.thinking,
                "thinks_by_default": able.thinks_by_default,
                "tools": able.tools,
            }
        }
