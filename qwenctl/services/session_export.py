"""A saved chat as text: Markdown for people, JSON that a chat loads, messages as OpenAI's API takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from qwenctl.core import Message
from qwenctl.services.conversation_file import conversation_document
from qwenctl.services.conversation_record import json_text
from qwenctl.services.session import Session

_SPEAKERS = {"system": "System prompt", "user": "You", "tool": "Tool"}


def as_markdown(session: Session, *, reasoning: bool = False) -> str:
    """Return a heading a message; thoughts, where they are wanted, as a quotation."""
    head = session.head
    day = datetime.fromtimestamp(head.created_s, UTC).strftime("%Y-%m-%d")
    parts = [f"# {head.title}", f"*{head.model_name}, {day}, session {head.session_id}*"]
    for message in session.conversation.messages:
        speaker = _SPEAKERS.get(message.role, head.model_name)
        parts.append(f"## {speaker} {message.extra['name']}" if "name" in message.extra else f"## {speaker}")
        if reasoning and message.reasoning:
            parts.append(re.sub(r"(?m)^", "> ", message.reasoning.strip()))
        parts.extend(
            f"```json\n{json_text(call['function'], indent=2)}\n```" for call in message.extra.get("tool_calls", ())
        )
        if message.content.strip():
            parts.append(message.content.strip())
    return "\n\n".join(parts).encode("utf-8", "replace").decode() + "\n"


def as_json(session: Session, *, reasoning: bool = False) -> str:  # noqa: ARG001  it is always there
    """Return the conversation as /save writes it, and /load reads it."""
    return json_text(conversation_document(session.conversation), indent=1) + "\n"


def as_openai(session: Session, *, reasoning: bool = False) -> str:
    """Return a JSON list of messages; thoughts, where they are wanted, as `reasoning_content`.

    Source: "Create chat completion" in OpenAI's API reference; `reasoning_content` as DeepSeek, vLLM and llama.cpp.
    """
    return json_text(openai_messages(session.conversation.messages, reasoning=reasoning), indent=1) + "\n"


def openai_messages(messages: Sequence[Message], *, reasoning: bool) -> list[dict[str, Any]]:
    """Return messages in OpenAI's form: calls of tools get IDs, in order, and their arguments are JSON in a string."""
    written: list[dict[str, Any]] = []
    n_calls = 0
    open_ids: list[str] = []  # of calls whose results are still to come
    for message in messages:
        one: dict[str, Any] = {"role": message.role, "content": message.content}
        if reasoning and message.reasoning:
            one["reasoning_content"] = message.reasoning
        if calls := message.extra.get("tool_calls"):
            open_ids = [f"call_{n_calls + number}" for number in range(1, len(calls) + 1)]
            n_calls += len(calls)
            one["tool_calls"] = [_openai_call(name, call) for name, call in zip(open_ids, calls, strict=True)]
        if message.role == "tool" and open_ids:
            one["tool_call_id"] = open_ids.pop(0)
        written.append(one)
    return written


def _openai_call(call_id: str, call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = json_text(function["arguments"])
    return {"id": call_id, "type": "function", "function": {"name": function["name"], "arguments": arguments}}
