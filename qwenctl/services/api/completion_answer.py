"""A completion of plain text in OpenAI's form: whole, or as the chunks of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwenctl.core import TokenLogprob
from qwenctl.services.api.answer_head import (
    AnswerHead,
    finish_reason,
    head_members,
    own_members,
    text_logprobs,
    usage_members,
)
from qwenctl.services.api.event_bytes import data_event
from qwenctl.services.reply import ReplyDone


@dataclass(frozen=True, slots=True)
class TextChoice:
    """One of the texts that a body gets."""

    done: ReplyDone
    logprobs: tuple[TokenLogprob, ...] | None = None  # None: they were not asked for


def completion_answer(head: AnswerHead, choices: Sequence[TextChoice], n_per_prompt: int) -> dict[str, Any]:
    """Return the answer with all its choices, the `n_per_prompt` of the first prompt first."""
    return {
        **head_members(head, "text_completion"),
        "choices": [
            _choice(index, choice.done.answer, choice.logprobs, finish_reason(choice.done, calls_tools=False))
            for index, choice in enumerate(choices)
        ],
        "usage": usage_members([choice.done for choice in choices], n_per_prompt),
        "qwenctl": own_members(choices[0].done),
    }


class CompletionChunks:
    """Makes the chunks of one stream."""

    def __init__(self, head: AnswerHead, *, include_usage: bool = False) -> None:
        self._members = head_members(head, "text_completion")
        self._include_usage = include_usage
        self._null = {"usage": None} if include_usage else {}

    def text(self, index: int, text: str, logprobs: Sequence[TokenLogprob] = (), *, offset: int = 0) -> bytes:
        """Return a chunk of text, which `offset` characters stand before."""
        choice = _choice(index, text, logprobs or None, None, offset)
        return data_event({**self._members, "choices": [choice], **self._null})

    def last(self, index: int, done: ReplyDone) -> bytes:
        """Return the chunk that ends a choice."""
        choice = _choice(index, "", None, finish_reason(done, calls_tools=False))
        return data_event({**self._members, "choices": [choice], **self._null})

    def usage(self, replies: Sequence[ReplyDone], n_per_prompt: int) -> bytes:
        """Return the chunk after the last one, b"" where it was not asked for."""
        if not self._include_usage:
            return b""
        extra = {"usage": usage_members(replies, n_per_prompt), "qwenctl": own_members(replies[0])}
        return data_event({**self._members, "choices": [], **extra})


def _choice(
    index: int, text: str, logprobs: Sequence[TokenLogprob] | None, reason: str | None, offset: int = 0
) -> dict[str, Any]:
    chances = None if logprobs is None else text_logprobs(logprobs, offset)
    return {"text": text, "index": index, "logprobs": chances, "finish_reason": reason}
