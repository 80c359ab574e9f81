"""Errors in the shape of each API: our exceptions to a status, a type and a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qwenctl.errors import InvalidRequest, ModelNotFound, PromptTooLong, QwenctlError, TemplateFailed
from qwenctl.services.api.body_fields import BadRequest

# status → (OpenAI's type, Anthropic's type)
_TYPES = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    403: ("permission_error", "permission_error"),
    404: ("not_found_error", "not_found_error"),
    405: ("invalid_request_error", "invalid_request_error"),
    408: ("timeout_error", "timeout_error"),
    413: ("invalid_request_error", "request_too_large"),
    415: ("invalid_request_error", "invalid_request_error"),
    421: ("permission_error", "permission_error"),
    429: ("rate_limit_error", "rate_limit_error"),
    500: ("server_error", "api_error"),
    503: ("service_unavailable_error", "overloaded_error"),
}


@dataclass(frozen=True, slots=True)
class ApiError:
    """What a client is told."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: int | None = None  # when it is worth another try

    def openai(self) -> dict[str, Any]:
        """Return OpenAI's shape."""
        kind = _TYPES.get(self.status, _TYPES[500])[0]
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def anthropic(self) -> dict[str, Any]:
        """Return Anthropic's shape."""
        kind = _TYPES.get(self.status, _TYPES[500])[1]
        return {"type": "error", "error": {"type": kind, "message": self.message}}


def api_error(error: QwenctlError) -> ApiError:
    """Return what a client is told of `error`."""
    if isinstance(error, BadRequest):
        return ApiError(400, error.message, error.param, error.code)
    if isinstance(error, PromptTooLong):
        return ApiError(400, error.message, "messages", "context_length_exceeded")
    if isinstance(error, InvalidRequest | TemplateFailed):
        return ApiError(400, error.message)
    if isinstance(error, ModelNotFound):
        return ApiError(404, error.message, "model", "model_not_found")
    return ApiError(500, error.message, code="server_error")
