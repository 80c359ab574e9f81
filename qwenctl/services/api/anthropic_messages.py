"""The messages of Anthropic's Messages API as ours.

A tool's result is a block of a user's message there and a message of its own here; thinking and calls are blocks of an
assistant's message there and belong to the message here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenctl.core import Message
from qwenctl.services.api.body_fields import BadRequest, shown

_TEXT = "only text, tools and thinking are read"


def read_anthropic_messages(body: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the messages.

    Raises:
        BadRequest: there are none, one is not as it should be, or the last is the assistant's: a begun answer.
    """
    value = body.get("messages")
    if not isinstance(value, list) or not value:
        raise BadRequest("'messages' must be a list with at least one message", "messages")
    messages: list[Message] = []
    for index, item in enumerate(value):
        messages += _messages(f"messages[{index}]", item)
    if messages and messages[-1].role == "assistant":
        raise BadRequest("the last message is the assistant's: answers cannot be begun for the model", "messages")
    return tuple(messages)


def blocks_text(value: Any, place: str) -> str:
    """Return the text of blocks that are all text.

    Raises:
        BadRequest: one is not.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise BadRequest(f"'{place}' must be text or a list of blocks", place)
    texts = [block.get("text") if isinstance(block, dict) and block.get("type") == "text" else None for block in value]
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise BadRequest(f"'{place}[{index}]' must be a block of text: {_TEXT}", f"{place}[{index}]")
    return "\n".join(text for text in texts if isinstance(text, str))


def _messages(place: str, item: Any) -> list[Message]:
    if not isinstance(item, dict):
        raise BadRequest(f"'{place}' must be an object", place)
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "assistant", "system"):
        raise BadRequest(f"'{place}.role' must be user or assistant", f"{place}.role")
    if isinstance(content, str):
        return [Message(role, content)]
    if not isinstance(content, list) or not content:
        raise BadRequest(f"'{place}.content' must be text or a list of blocks", f"{place}.content")
    blocks = [(f"{place}.content[{number}]", block) for number, block in enumerate(content)]
    for where, block in blocks:
        if not isinstance(block, dict):
            raise BadRequest(f"'{where}' must be an object", where)
    return [_assistant(blocks)] if role == "assistant" else _user(role, blocks)


def _user(role: Any, blocks: list[tuple[str, Any]]) -> list[Message]:
    messages: list[Message] = []
    texts: list[str] = []
    for place, block in blocks:
        if block.get("type") == "tool_result":
            name = _text(block, "tool_use_id", place)
            result = blocks_text(block.get("content") or "", f"{place}.content")
            said = f"error: {result}" if block.get("is_error") is True else result
            messages.append(Message("tool", said, extra={"tool_call_id": name}))
        elif block.get("type") == "text":
            texts.append(_text(block, "text", place))
        elif block.get("type") == "document":
            texts.append(_document(block, place))
        else:
            raise BadRequest(f"'{place}' is of the type {shown(block.get('type'))}: {_TEXT}", place)
    return [*messages, Message(role, "\n".join(texts))] if texts else messages


def _assistant(blocks: list[tuple[str, Any]]) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for place, block in blocks:
        kind = block.get("type")
        if kind == "text":
            texts.append(_text(block, "text", place))
        elif kind == "thinking":
            thoughts.append(_text(block, "thinking", place))
        elif kind == "tool_use":
            arguments = block.get("input")
            if not isinstance(arguments, dict):
                raise BadRequest(f"'{place}.input' must be an object", f"{place}.input")
            function = {"name": _text(block, "name", place), "arguments": arguments}
            calls.append({"id": _text(block, "id", place), "type": "function", "function": function})
        elif kind != "redacted_thinking":
            raise BadRequest(f"'{place}' is of the type {shown(kind)}: {_TEXT}", place)
    return Message("assistant", "\n".join(texts), "\n".join(thoughts) or None, {"tool_calls": calls} if calls else {})


def _document(block: Mapping[str, Any], place: str) -> str:
    source = block.get("source")
    if not isinstance(source, dict) or source.get("type") != "text" or not isinstance(source.get("data"), str):
        raise BadRequest(f"'{place}' must hold plain text: {_TEXT}", place)
    data: str = source["data"]
    return data


def _text(block: Mapping[str, Any], name: str, place: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise BadRequest(f"'{place}.{name}' must be text", f"{place}.{name}")
    return value
