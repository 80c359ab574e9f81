"""What one line of a batch asks for: parsed and checked, or refused with a sentence.

Two forms, told apart by their keys:

    {"custom_id": …, "method": "POST", "url": "/v1/chat/completions", "body": {"messages": […], "temperature": …, …}}
    {"custom_id": …, "method": "POST", "url": "/v1/completions" or "/v1/embeddings", "body": …}
    {"prompt": …, "system": …, "id": …, "temperature": …, …}            other keys are the user's own data

The lines of a file may ask for different things: which url a line has is its own affair.
A field of `body` that we do not know is refused rather than ignored: the answer would not be what was asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from qwenctl.services.api.body_fields import BadRequest, is_unicode, parse_json, shown
from qwenctl.services.api.chat_body import ChatBody, parse_chat_body, refuse_unsupported
from qwenctl.services.api.completion_body import CompletionBody, parse_completion_body
from qwenctl.services.api.embedding_body import EmbeddingBody, parse_embedding_body
from qwenctl.services.batch_input import InputLine

CHAT_URL = "/v1/chat/completions"
COMPLETION_URL = "/v1/completions"
EMBEDDING_URL = "/v1/embeddings"

LineBody = ChatBody | CompletionBody | EmbeddingBody

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {  # field → values that ask for nothing special
    "stream": (False,),
    "stream_options": (),
    "return_progress": (False,),
}
_PLAIN_FIELDS = (  # of a plain line; the others are the user's own data
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "repeat_penalty",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "enable_thinking",
    "chat_template_kwargs",
)

_PARSERS: Mapping[str, Callable[..., LineBody]] = {
    CHAT_URL: parse_chat_body,
    COMPLETION_URL: parse_completion_body,
    EMBEDDING_URL: parse_embedding_body,
}


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A line that makes sense."""

    custom_id: str
    sha256: str  # of its content, the same however the JSON is written
    url: str
    body: Mapping[str, Any]  # as it was given; a plain line's as the body of a chat completion
    parsed: LineBody


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that gets an error record."""

    custom_id: str
    sha256: str
    code: str
    message: str


def parse_line(line: InputLine) -> BatchRequest | BadLine:
    """Return what `line` asks for, or why it cannot be answered. Never raises on bad input."""
    if line.data is None:
        return BadLine(default_id(line.number, line.sha256), line.sha256, "line_too_long", "the line is too long")
    try:
        content = parse_json(line.data)
    except BadRequest as error:
        return BadLine(default_id(line.number, line.sha256), line.sha256, "invalid_json", error.message)
    digest = _content_digest(content)
    given_id = _given_id(content)
    custom_id = default_id(line.number, digest) if given_id is None else given_id
    try:
        return _request(content, custom_id, digest)
    except BadRequest as error:
        return BadLine(custom_id, digest, "invalid_request", error.message)


def default_id(number: int, sha256: str) -> str:
    """Return the name of a line that has none of its own."""
    return f"line-{number}-{sha256[:8]}"


def _content_digest(content: Any) -> str:
    plain = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(plain.encode()).hexdigest()


def _given_id(content: Any) -> str | None:
    """The line's own name, if it has a usable one."""
    if not isinstance(content, dict):
        return None
    name = content.get("custom_id", content.get("id"))
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    usable = isinstance(name, str) and 0 < len(name) <= 512 and is_unicode(name)
    return cast("str", name) if usable else None


def _request(content: Any, custom_id: str, digest: str) -> BatchRequest:
    if not isinstance(content, dict):
        raise BadRequest("not a JSON object")
    if "prompt" in content and "body" not in content:
        body = _plain_body(content)
        return BatchRequest(custom_id, digest, CHAT_URL, body, parse_chat_body(body))
    url, body = _openai_body(content)
    refuse_unsupported(body, _UNSUPPORTED)
    return BatchRequest(custom_id, digest, url, body, _PARSERS[url](body, strict=True))


def _plain_body(content: Mapping[str, Any]) -> dict[str, Any]:
    _check_id(content, required=False)
    prompt, system = content["prompt"], content.get("system")
    if not isinstance(prompt, str):
        raise BadRequest("'prompt' must be text")
    if not isinstance(system, str | None):
        raise BadRequest("'system' must be text")
    messages = [{"role": "system", "content": system}] if system else []
    given = {name: content[name] for name in _PLAIN_FIELDS if name in content}
    return {**given, "messages": [*messages, {"role": "user", "content": prompt}]}


def _openai_body(content: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if not {"body", "url", "method"} & set(content):
        raise BadRequest("neither 'prompt' nor 'body'")
    _check_id(content, required=True)
    if content.get("method") != "POST":
        raise BadRequest("'method' must be \"POST\"")
    url = content.get("url")
    if not isinstance(url, str) or url not in _PARSERS:
        raise BadRequest(f"'url' must be one of {', '.join(_PARSERS)}, not {shown(url)}")
    body = content.get("body")
    if not isinstance(body, dict):
        raise BadRequest("'body' must be an object")
    return url, body


def _check_id(content: Mapping[str, Any], *, required: bool) -> None:
    name = content.get("custom_id", None if required else content.get("id"))
    if (required or name is not None) and _given_id({"custom_id": name}) is None:
        raise BadRequest("'custom_id' must be text of 1 to 512 characters" if name is not None else "no 'custom_id'")
