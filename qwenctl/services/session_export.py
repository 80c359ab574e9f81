"""A saved chat as text: Markdown for people, JSON that a chat loads, messages as OpenAI's API takes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from qwenctl.core import Message
from qwenctl.services.conversation_file import conversation_document
from qwenctl.services.conversation_record import json_text
from qwenctl.services.session import Session

_SPEAKERS = {"system": "System prompt", "user": "You", "assistant": "Model", "tool": "Tool"}


def as_markdown(session: Session, *, reasoning: bool = False) -> str:
    """Return a heading a message; thoughts, where they are wanted, as a quotation."""
    head = session.head
    day = datetime.fromtimestamp(head.created_s, UTC).strftime("%Y-%m-%d")
    parts = [f"# {head.title}", f"*{head.model_name}, {day}, session {head.session_id}*"]
    for message in session.conversation.messages:
        parts.append(f"## {head.model_name if message.role == 'assistant' else _SPEAKERS[message.role]}")
        if reasoning and message.reasoning:
            parts.append(re.sub(r"(?m)^", "> ", message.reasoning.strip()))
        parts.extend(f"```json\n{json_text(call, indent=2)}\n```" for call in message.extra.get("tool_calls", ()))
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
    messages = [_openai_message(message, reasoning=reasoning) for message in session.conversation.messages]
    return json_text(messages, indent=1) + "\n"


def _openai_message(message: Message, *, reasoning: bool) -> dict[str, Any]:
    thoughts = {"reasoning_content": message.reasoning} if reasoning and message.reasoning else {}
    return {"role": message.role, "content": message.content, **thoughts, **message.extra}
