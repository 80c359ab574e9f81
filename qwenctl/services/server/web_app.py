"""The server as one ASGI application: paths to endpoints, behind the gate."""

from __future__ import annotations

import time

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from qwenctl.services.api.api_errors import ApiError
from qwenctl.services.server.access_gate import AccessGate
from qwenctl.services.server.access_rules import AccessRules
from qwenctl.services.server.asgi_answers import Refused
from qwenctl.services.server.chat_endpoint import ChatEndpoint, ControlEndpoint
from qwenctl.services.server.completion_endpoint import CompletionEndpoint
from qwenctl.services.server.desk import Desk
from qwenctl.services.server.embedding_endpoint import EmbeddingEndpoint
from qwenctl.services.server.messages_endpoint import CountEndpoint, MessagesEndpoint
from qwenctl.services.server.page_files import page_files
from qwenctl.services.server.status_endpoints import HealthEndpoint, MetricsEndpoint, ModelsEndpoint, ReadyEndpoint


def make_app(desk: Desk) -> ASGIApp:
    """Return the application."""
    models = ModelsEndpoint(desk, int(time.time()))
    posts: dict[str, ASGIApp] = {
        "/v1/chat/completions": ChatEndpoint(desk),
        "/v1/chat/completions/control": ControlEndpoint(desk),
        "/v1/completions": CompletionEndpoint(desk),
        "/v1/embeddings": EmbeddingEndpoint(desk),
        "/v1/messages": MessagesEndpoint(desk),
        "/v1/messages/count_tokens": CountEndpoint(desk),
    }
    gets: dict[str, ASGIApp] = {
        "/health": HealthEndpoint(desk),
        "/ready": ReadyEndpoint(desk),
        "/metrics": MetricsEndpoint(desk),
        "/v1/models": models,
        "/v1/models/{name:path}": models,
        **page_files(),
    }
    routes = [
        *(Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()),
        *(Route(path, endpoint, methods=["GET"]) for path, endpoint in gets.items()),
    ]
    router = Router(routes, redirect_slashes=False, default=_not_found)
    return AccessGate(_WithoutExceptions(router), AccessRules(desk.options), desk.metrics)


class _WithoutExceptions:
    """The router's own answer to a wrong method, in our shape."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            await self._app({**scope, "app": self}, receive, send)
        except HTTPException as error:
            message = f"{scope['method']} does not work at this path"
            raise Refused(ApiError(error.status_code, message, code="method_not_allowed")) from error


async def _not_found(scope: Scope, _receive: Receive, _send: Send) -> None:
    raise Refused(ApiError(404, f"there is nothing at {scope['path'][:200]!r}", code="not_found"))
