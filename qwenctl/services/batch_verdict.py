"""What a server's answer to a line means: for the line, and for the server. Pure.

200 and an answer            the line has it
400, 404, 413, 422 …         the line's fault: no server would answer it
408, 429, 503                the server is busy: others may take the line, and this one is left alone for a while
5xx, garbage, cut off        trouble: the attempt failed, whoever's fault it is
401, 403, 3xx                the server is of no use to us
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qwenctl.services.api.body_fields import BadRequest, parse_json
from qwenctl.services.batch_request import EMBEDDING_URL
from qwenctl.services.batch_server import ServerAnswer
from qwenctl.services.hub.backoff import asked_delay_s

_BUSY = frozenset({408, 425, 429, 503})
_USELESS = frozenset({401, 402, 403, 407})


@dataclass(frozen=True, slots=True)
class GoodAnswer:
    """An answer to the line."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LineFault:
    """The line cannot be answered."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Busy:
    """The server takes no more for now."""

    message: str
    asked_s: float | None  # how long it wants to be left alone


@dataclass(frozen=True, slots=True)
class Trouble:
    """The attempt failed."""

    message: str
    reached: bool = True  # the server has seen the line


@dataclass(frozen=True, slots=True)
class Useless:
    """The server will answer no line."""

    message: str


Verdict = GoodAnswer | LineFault | Busy | Trouble | Useless


def judge(answer: ServerAnswer, url: str, now_s: float) -> Verdict:
    """Return what `answer` means.

    Args:
        answer: of the server.
        url: that was asked.
        now_s: seconds since 1970.
    """
    status = answer.status
    if status == 200:
        body = _object(answer.data)
        is_answer = body is not None and "error" not in body and _holds_answers(body, url)
        return GoodAnswer(body) if body is not None and is_answer else Trouble("answers what is no answer")
    message = f"{status}{_reason(answer)}"
    if status in _BUSY:
        return Busy(message, asked_delay_s(answer.headers, now_s))
    if status in _USELESS:
        return Useless(f"refuses the key ({status})" if status in (401, 403) else message)
    if 300 <= status < 400:
        return Useless(f"sends us elsewhere ({status})")
    if 400 <= status < 500:
        return LineFault("refused_by_server", f"the server refuses the line: {message}")
    return Trouble(message)


def _holds_answers(body: dict[str, Any], url: str) -> bool:
    items = body.get("data" if url == EMBEDDING_URL else "choices")
    member = {EMBEDDING_URL: "embedding", "/v1/completions": "text"}.get(url, "message")
    return isinstance(items, list) and bool(items) and all(isinstance(one, dict) and member in one for one in items)


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = parse_json(data)
    except BadRequest:
        return None
    return value if isinstance(value, dict) else None


def _reason(answer: ServerAnswer) -> str:
    """What the server says of an error, in a line."""
    body = _object(answer.data) or {}
    error = body.get("error")
    text = error.get("message") if isinstance(error, dict) else error if isinstance(error, str) else None
    text = text or body.get("detail") or body.get("message")
    if not isinstance(text, str):
        return ""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[:1000]).split())
    return f": {line[:300]}" if line else ""
