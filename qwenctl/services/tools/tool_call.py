"""A call that a model asks for, and how it stands in a conversation. Values only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from qwenctl.core import Message

ToolFormat = Literal["hermes", "xml"]
"""How a template wants calls written: Hermes' JSON within tags (Qwen3), or tags throughout (Qwen3-Coder, Qwen3.5)."""

OPEN_TAG = "<tool_call>"
CLOSE_TAG = "</tool_call>"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def json_arguments(self) -> str:
        """The arguments as OpenAI's API has them."""
        return json.dumps(self.arguments, ensure_ascii=False)


def calling_message(text: str, reasoning: str | None, calls: Sequence[ToolCall]) -> Message:
    """Return the assistant's message that makes `calls`; templates want arguments as objects."""
    entries = [
        {"type": "function", "function": {"name": _utf8(one.name), "arguments": json.loads(_utf8(one.json_arguments))}}
        for one in calls
    ]
    return Message("assistant", text, reasoning, {"tool_calls": entries})


def result_message(call: ToolCall, text: str) -> Message:
    """Return the message that brings the result of `call`."""
    return Message("tool", _utf8(text), extra={"name": _utf8(call.name)})


def _utf8(text: str) -> str:
    """Halves of surrogate pairs, which JSON's escapes and Python's texts allow, become "?": no prompt holds them."""
    return text.encode("utf-8", "replace").decode()
