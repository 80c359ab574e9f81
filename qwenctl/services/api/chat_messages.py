"""The messages of OpenAI's chat API as ours: roles, text in one piece or in parts, reasoning, tool calls.

What is no text (pictures, sound, files) is refused, with the place where it stands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from qwenctl.core import Message, Role
from qwenctl.services.api.body_fields import BadRequest, is_unicode, shown

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}  # type → its member


def read_messages(body: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the messages.

    Raises:
        BadRequest: there are none, or one is not as it should be.
    """
    value = body.get("messages")
    if not isinstance(value, list) or not value:
        raise BadRequest("'messages' must be a list with at least one message", "messages")
    return tuple(_message(index, item) for index, item in enumerate(value))


def _message(index: int, item: Any) -> Message:
    place = f"messages[{index}]"
    if not isinstance(item, dict):
        raise BadRequest(f"message {index + 1} is not an object", place)
    role = _ROLES.get(item["role"]) if isinstance(item.get("role"), str) else None
    if role is None:
        raise BadRequest(f"the role of message {index + 1} must be one of {', '.join(_ROLES)}", f"{place}.role")
    reasoning = item.get("reasoning_content", item.get("reasoning"))
    if not isinstance(reasoning, str | None):
        raise BadRequest(f"the reasoning of message {index + 1} must be text", f"{place}.reasoning")
    extra = {name: item[name] for name in ("tool_call_id", "name") if item.get(name) is not None}
    for name, text in extra.items():
        if not isinstance(text, str):
            raise BadRequest(f"'{name}' of message {index + 1} must be text", f"{place}.{name}")
    if item.get("tool_calls"):
        extra["tool_calls"] = _tool_calls(item["tool_calls"], place)
    return Message(cast("Role", role), _content(index, item), reasoning, extra)


def _content(index: int, item: Mapping[str, Any]) -> str:
    """The text of a message: a string, or a list of parts that are all text."""
    content, place = item.get("content"), f"messages[{index}].content"
    if content is None and item.get("role") == "assistant" and (item.get("tool_calls") or item.get("refusal")):
        return item["refusal"] if isinstance(item.get("refusal"), str) else ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRequest(f"the content of message {index + 1} must be text", place)
    texts = [_part(index, number, part) for number, part in enumerate(content)]
    return "".join(texts)


def _part(index: int, number: int, part: Any) -> str:
    place = f"messages[{index}].content[{number}]"
    kind = part.get("type") if isinstance(part, dict) else None
    member = _TEXT_PARTS.get(kind) if isinstance(kind, str) else None
    text = part.get(member) if member else None
    if not isinstance(text, str):
        found = f", not {shown(kind)}: pictures, sound and files are not read" if kind and not member else ""
        raise BadRequest(f"the content of message {index + 1} must be text{found}", place)
    return text


def _tool_calls(value: Any, place: str) -> list[dict[str, Any]]:
    """The calls as templates want them: arguments as an object wherever they are one."""
    if not isinstance(value, list):
        raise BadRequest("'tool_calls' must be a list", f"{place}.tool_calls")
    calls = []
    for number, call in enumerate(value):
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        arguments = function.get("arguments", "{}") if isinstance(function, dict) else None
        if not isinstance(name, str) or not isinstance(arguments, str | dict):
            what = "a tool call must have a 'function' with 'name' and 'arguments'"
            raise BadRequest(what, f"{place}.tool_calls[{number}]")
        name_of_call = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        calls.append(name_of_call | {"type": "function", "function": {"name": name, "arguments": as_object(arguments)}})
    return calls


def as_object(arguments: str | dict[str, Any]) -> str | dict[str, Any]:
    """Return arguments of a call as the object that their JSON writes, or the text where it writes none."""
    if isinstance(arguments, dict):
        return arguments
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) and is_unicode(arguments) else arguments
