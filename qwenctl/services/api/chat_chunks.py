"""A chat completion's stream in OpenAI's form, as bytes. What all chunks share is encoded once."""

from __future__ import annotations

from collections.abc import Sequence

from qwenctl.core import PromptProgress, TokenLogprob
from qwenctl.services.api.answer_head import (
    AnswerHead,
    chat_logprobs,
    finish_reason,
    head_members,
    own_members,
    usage_members,
)
from qwenctl.services.api.chat_answer import ArgumentsDelta, CalledTool, call_members
from qwenctl.services.api.event_bytes import data_event, encode_json
from qwenctl.services.reply import ReplyDone


class ChatChunks:
    """Makes the chunks of one stream.

    Args:
        include_usage: whether each chunk has a member `usage`, null but in the last one.
    """

    def __init__(self, head: AnswerHead, *, include_usage: bool = False) -> None:
        self._include_usage = include_usage
        self._members = head_members(head, "chat.completion.chunk")
        self._begin = b"data: " + encode_json(self._members)[:-1] + b',"choices":[{"index":'
        self._end = b"]" + (b',"usage":null' if include_usage else b"") + b"}\n\n"

    def first(self, index: int) -> bytes:
        """Return the chunk that opens a choice."""
        return self._chunk(index, b'{"role":"assistant","content":"","refusal":null}')

    def reasoning(self, index: int, text: str) -> bytes:
        """Return a chunk of reasoning, under both names that clients look for."""
        said = encode_json(text)
        return self._chunk(index, b'{"reasoning":' + said + b',"reasoning_content":' + said + b"}")

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob] = ()) -> bytes:
        """Return a chunk of the answer."""
        return self._chunk(index, b'{"content":' + encode_json(text) + b"}", logprobs)

    def call(self, index: int, call: CalledTool) -> bytes:
        """Return the chunk that opens a call."""
        return self._chunk(index, encode_json({"tool_calls": [{"index": call.number, **call_members(call)}]}))

    def arguments(self, index: int, delta: ArgumentsDelta) -> bytes:
        """Return a chunk of a call's arguments."""
        said = encode_json(delta.json)
        return self._chunk(index, b'{"tool_calls":[{"index":%d,"function":{"arguments":%s}}]}' % (delta.number, said))

    def progress(self, index: int, progress: PromptProgress) -> bytes:
        """Return a chunk that says how much of the prompt is computed, in the form of llama.cpp's server."""
        counts = {
            "total": progress.n_total_tokens,
            "cache": progress.n_cached_tokens,
            "processed": progress.n_done_tokens,
        }
        choice = {"index": index, "delta": {}, "logprobs": None, "finish_reason": None}
        return data_event({**self._members, "choices": [choice], "prompt_progress": counts})

    def last(self, index: int, done: ReplyDone, *, calls_tools: bool) -> bytes:
        """Return the chunk that ends a choice."""
        reason = finish_reason(done, calls_tools=calls_tools)
        return self._chunk(index, b"{}", (), reason.encode("ascii"))

    def usage(self, replies: Sequence[ReplyDone], notes: Sequence[str] = ()) -> bytes:
        """Return the chunk after the last one, b"" where it was not asked for."""
        if not self._include_usage:
            return b""
        extra = {"usage": usage_members(replies), "qwenctl": own_members(replies[0], notes)}
        return data_event({**self._members, "choices": [], **extra})

    def _chunk(
        self, index: int, delta: bytes, logprobs: Sequence[TokenLogprob] = (), reason: bytes | None = None
    ) -> bytes:
        chances = encode_json(chat_logprobs(logprobs)) if logprobs else b"null"
        ending = b'"' + reason + b'"' if reason else b"null"
        return b"%s%d,\"delta\":%s,\"logprobs\":%s,\"finish_reason\":%s}%s" % (
            self._begin, index, delta, chances, ending, self._end,
        )  # fmt: skip
