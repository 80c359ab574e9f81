"""What one line of a batch asks for: parsed and checked, or refused with a sentence.

Two forms, told apart by their keys:

    {"custom_id": …, "method": "POST", "url": "/v1/chat/completions", "body": {"messages": […], "temperature": …, …}}
    {"prompt": …, "system": …, "id": …, "temperature": …, …}            other keys are the user's own data

A field of `body` that we do not know is refused rather than ignored: the answer would not be what was asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from qwenctl.core import Message, Role
from qwenctl.services.batch_input import InputLine
from qwenctl.services.generation import ChatOptions

CHAT_URL = "/v1/chat/completions"

_MAX_NESTING = 100  # far below what any JSON code of ours or a template can digest

_NUMBERS = {  # field → parameter of SamplingParams; their ranges are checked there
    "temperature": "temperature",
    "top_p": "top_p",
    "min_p": "min_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repeat_penalty",
    "repeat_penalty": "repeat_penalty",
}
_WHOLE_NUMBERS = {"top_k": "top_k", "seed": "seed"}
_MEANT_FOR_OTHERS = frozenset({"model", "user", "metadata", "store", "service_tier", "safety_identifier"})
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {  # field → values that ask for nothing special
    "n": (1,),
    "stream": (False,),
    "stream_options": (),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
_OTHER_FIELDS = frozenset(
    {"messages", "max_tokens", "max_completion_tokens", "stop", "chat_template_kwargs", "enable_thinking"}
)
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_RESERVED_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"})


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A line that makes sense."""

    custom_id: str
    sha256: str  # of its content, the same however the JSON is written
    messages: tuple[Message, ...]
    thinking: bool | None
    sampling: Mapping[str, Any]
    max_tokens: int | None
    stop: tuple[str, ...]
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    n_answers: int = 1

    def options(self, defaults: ChatOptions) -> ChatOptions:
        """Return `defaults` with what this line says in their place."""
        return replace(
            defaults,
            thinking=defaults.thinking if self.thinking is None else self.thinking,
            sampling={**defaults.sampling, **self.sampling},
            max_tokens=self.max_tokens or defaults.max_tokens,
            stop=self.stop or defaults.stop,
            template_variables={**defaults.template_variables, **self.template_variables},
        )


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that gets an error record."""

    custom_id: str
    sha256: str
    code: str
    message: str


class _LineError(ValueError):
    """What is wrong with a line."""


def parse_line(line: InputLine) -> BatchRequest | BadLine:
    """Return what `line` asks for, or why it cannot be answered. Never raises on bad input."""
    if line.data is None:
        return BadLine(default_id(line.number, line.sha256), line.sha256, "line_too_long", "the line is too long")
    try:
        content = _parse_json(line.data)
    except _LineError as error:
        return BadLine(default_id(line.number, line.sha256), line.sha256, "invalid_json", str(error))
    digest = _content_digest(content)
    given_id = _given_id(content)
    custom_id = default_id(line.number, digest) if given_id is None else given_id
    try:
        return _request(content, custom_id, digest)
    except _LineError as error:
        return BadLine(custom_id, digest, "invalid_request", str(error))


def default_id(number: int, sha256: str) -> str:
    """Return the name of a line that has none of its own."""
    return f"line-{number}-{sha256[:8]}"


def _parse_json(data: bytes) -> Any:
    try:
        content = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _LineError(f"not UTF-8: byte {error.start + 1}") from error
    except RecursionError:
        content = None
        is_deep = True
    except ValueError as error:
        raise _LineError(f"not JSON: {error}") from error
    else:
        is_deep = _is_deep(content, _MAX_NESTING)
    if is_deep:
        raise _LineError(f"nested more than {_MAX_NESTING} levels deep")
    return content


def _is_deep(value: Any, levels: int) -> bool:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_is_deep(child, levels - 1) for child in children)


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
    usable = isinstance(name, str) and 0 < len(name) <= 512 and _is_text(name)
    return cast("str", name) if usable else None


def _request(content: Any, custom_id: str, digest: str) -> BatchRequest:
    if not isinstance(content, dict):
        raise _LineError("not a JSON object")
    is_plain = "prompt" in content and "body" not in content
    body = _plain_body(content) if is_plain else _openai_body(content)
    if not is_plain:
        _refuse_unknown(body)
    thinking, variables = _template_variables(body)
    return BatchRequest(
        custom_id=custom_id,
        sha256=digest,
        messages=_messages(body.get("messages")),
        thinking=thinking,
        sampling=_sampling(body),
        max_tokens=_max_tokens(body),
        stop=_stop(body.get("stop")),
        template_variables=variables,
    )


def _plain_body(content: Mapping[str, Any]) -> dict[str, Any]:
    _check_id(content, required=False)
    prompt, system = content["prompt"], content.get("system")
    if not isinstance(prompt, str):
        raise _LineError("'prompt' must be text")
    if not isinstance(system, str | None):
        raise _LineError("'system' must be text")
    messages = [{"role": "system", "content": system}] if system else []
    return {**content, "messages": [*messages, {"role": "user", "content": prompt}]}


def _openai_body(content: Mapping[str, Any]) -> dict[str, Any]:
    if not {"body", "url", "method"} & set(content):
        raise _LineError("neither 'prompt' nor 'body'")
    _check_id(content, required=True)
    if content.get("method") != "POST":
        raise _LineError("'method' must be \"POST\"")
    if content.get("url") != CHAT_URL:
        raise _LineError(f"'url' must be {json.dumps(CHAT_URL)}, not {json.dumps(content.get('url'))[:80]}")
    body = content.get("body")
    if not isinstance(body, dict):
        raise _LineError("'body' must be an object")
    return body


def _check_id(content: Mapping[str, Any], *, required: bool) -> None:
    name = content.get("custom_id", None if required else content.get("id"))
    if (required or name is not None) and _given_id({"custom_id": name}) is None:
        raise _LineError("'custom_id' must be text of 1 to 512 characters" if name is not None else "no 'custom_id'")


def _refuse_unknown(body: Mapping[str, Any]) -> None:
    known = _OTHER_FIELDS | _MEANT_FOR_OTHERS | set(_NUMBERS) | set(_WHOLE_NUMBERS) | set(_UNSUPPORTED)
    unknown = sorted(set(body) - known)
    if unknown:
        raise _LineError(f"unknown field {json.dumps(unknown[0])[:80]} in 'body'")
    for name, harmless in _UNSUPPORTED.items():
        if body.get(name) is not None and body[name] not in harmless:
            raise _LineError(f"'{name}' is not supported")


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _LineError("'messages' must be a list with at least one message")
    return tuple(_message(number, item) for number, item in enumerate(value, 1))


def _message(number: int, item: Any) -> Message:
    if not isinstance(item, dict):
        raise _LineError(f"message {number} is not an object")
    role = _ROLES.get(item["role"]) if isinstance(item.get("role"), str) else None
    if role is None:
        raise _LineError(f"the role of message {number} must be one of {', '.join(_ROLES)}")
    reasoning = item.get("reasoning_content", item.get("reasoning"))
    if not isinstance(reasoning, str | None):
        raise _LineError(f"the reasoning of message {number} must be text")
    extra = {name: item[name] for name in ("tool_calls", "tool_call_id", "name") if item.get(name) is not None}
    return Message(cast("Role", role), _content(number, item), reasoning, extra)


def _content(number: int, item: Mapping[str, Any]) -> str:
    """The text of a message: a string, or a list of parts that are all text."""
    content = item.get("content")
    if content is None and item.get("tool_calls"):
        return ""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if any(not isinstance(text, str) for text in texts):
        raise _LineError(f"the content of message {number} must be text")
    return "".join(cast("list[str]", texts))


def _sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for names, kind, word in ((_NUMBERS, (int, float), "a number"), (_WHOLE_NUMBERS, (int,), "a whole number")):
        for name, parameter in names.items():
            value = body.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, kind):
                raise _LineError(f"'{name}' must be {word}")
            values[parameter] = value
    return values


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = body.get(name)
        if value is not None:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise _LineError(f"'{name}' must be a whole number from 1")
            return value
    return None


def _stop(value: Any) -> tuple[str, ...]:
    texts: Sequence[Any] = [] if value is None else value if isinstance(value, list) else [value]
    if len(texts) > 16 or any(not isinstance(text, str) or not text or not _is_text(text) for text in texts):
        raise _LineError("'stop' must be text or a list of at most 16 texts")
    return tuple(texts)


def _template_variables(body: Mapping[str, Any]) -> tuple[bool | None, dict[str, Any]]:
    given = body.get("chat_template_kwargs") or {}
    if not isinstance(given, dict):
        raise _LineError("'chat_template_kwargs' must be an object")
    reserved = sorted(_RESERVED_VARIABLES & set(given))
    if reserved:
        raise _LineError(f"'chat_template_kwargs' cannot set '{reserved[0]}'")
    thinking = given.get("enable_thinking", body.get("enable_thinking"))
    if not isinstance(thinking, bool | None):
        raise _LineError("'enable_thinking' must be true or false")
    return thinking, {name: value for name, value in given.items() if name != "enable_thinking"}


def _is_text(text: str) -> bool:
    """Whether `text` can be written as UTF-8: JSON's escapes allow half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
