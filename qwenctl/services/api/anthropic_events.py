"""A reply as the stream of Anthropic's Messages API: message_start, blocks one after another, message_stop."""

from __future__ import annotations

from typing import Any

from qwenctl.core import Usage
from qwenctl.services.api.anthropic_answer import ending_members, message_members, usage_of
from qwenctl.services.api.chat_answer import ArgumentsDelta, CalledTool
from qwenctl.services.api.event_bytes import encode_json, named_event
from qwenctl.services.reply import ReplyDone


class AnthropicEvents:
    """Makes the events of one stream. Blocks open and close by themselves as the kind of what comes changes."""

    def __init__(self, message_id: str, model: str) -> None:
        self._message = message_members(message_id, model)
        self._index = -1
        self._open: str | None = None  # the kind of the block that is open

    def start(self, n_prompt_tokens: int) -> bytes:
        """Return what comes before everything else."""
        usage = usage_of(Usage(n_prompt_tokens, 0, 0))
        message = self._message | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
        return named_event("message_start", {"type": "message_start", "message": message}) + self.ping()

    def ping(self) -> bytes:
        """Return what keeps the connection from being taken for dead."""
        return named_event("ping", {"type": "ping"})

    def reasoning(self, text: str) -> bytes:
        """Return a piece of thinking."""
        begin = self._enter("thinking", {"type": "thinking", "thinking": "", "signature": ""})
        return begin + self._delta({"type": "thinking_delta", "thinking": text})

    def text(self, text: str) -> bytes:
        """Return a piece of the answer."""
        return self._enter("text", {"type": "text", "text": ""}) + self._delta({"type": "text_delta", "text": text})

    def call(self, call: CalledTool) -> bytes:
        """Return what opens a call."""
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        return self._leave() + self._enter("tool_use", block)

    def arguments(self, delta: ArgumentsDelta) -> bytes:
        """Return a piece of the arguments of the call that is open."""
        return self._delta({"type": "input_json_delta", "partial_json": delta.json})

    def end(self, done: ReplyDone, *, calls_tools: bool) -> bytes:
        """Return what ends the stream."""
        empty = self._enter("text", {"type": "text", "text": ""}) if self._index < 0 else b""
        delta = ending_members(done, calls_tools=calls_tools)
        change = {"type": "message_delta", "delta": delta, "usage": usage_of(done.usage)}
        stop = named_event("message_stop", {"type": "message_stop"})
        return empty + self._leave() + named_event("message_delta", change) + stop

    def _enter(self, kind: str, block: dict[str, Any]) -> bytes:
        if self._open == kind:
            return b""
        left = self._leave()
        self._index += 1
        self._open = kind
        begin = {"type": "content_block_start", "index": self._index, "content_block": block}
        return left + named_event("content_block_start", begin)

    def _leave(self) -> bytes:
        if self._open is None:
            return b""
        signed = self._delta({"type": "signature_delta", "signature": ""}) if self._open == "thinking" else b""
        self._open = None
        return signed + named_event("content_block_stop", {"type": "content_block_stop", "index": self._index})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":' % self._index
            + encode_json(delta)
            + b"}\n\n"
        )
