"""A finished chat completion in OpenAI's form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qwenctl.core import TokenLogprob
from qwenctl.services.api.answer_head import (
    AnswerHead,
    chat_logprobs,
    finish_reason,
    head_members,
    own_members,
    usage_members,
)
from qwenctl.services.reply import ReplyDone


@dataclass(frozen=True, slots=True)
class CalledTool:
    """A call that a model asks for."""

    id: str
    name: str
    arguments: str  # JSON; if it is not whole, the beginning of it; nothing in a stream, where they come next
    number: int = 0  # among the calls of a reply
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """A piece of a call's arguments."""

    number: int  # of the call
    json: str


@dataclass(frozen=True, slots=True)
class ChatChoice:
    """One of the answers to a body."""

    done: ReplyDone
    text: str  # the answer without the calls in it
    calls: tuple[CalledTool, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None  # None: they were not asked for

    @property
    def calls_tools(self) -> bool:
        """Whether it ends in calls that can be run. Not if one of them broke off: that is for the client to decide."""
        return bool(self.calls) and all(call.is_whole for call in self.calls)


def chat_answer(head: AnswerHead, choices: Sequence[ChatChoice], notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return the answer with all its choices. Reasoning goes under both names that clients look for.

    `notes` are for people: what was ignored, cut or advised against.
    """
    return {
        **head_members(head, "chat.completion"),
        "choices": [_choice(index, choice) for index, choice in enumerate(choices)],
        "usage": usage_members([choice.done for choice in choices]),
        "qwenctl": own_members(choices[0].done, notes),
    }


def call_members(call: CalledTool) -> dict[str, Any]:
    """Return a call as messages hold it."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _choice(index: int, choice: ChatChoice) -> dict[str, Any]:
    calls, done = choice.calls, choice.done
    message: dict[str, Any] = {
        "role": "assistant",
        "content": choice.text or (None if calls else ""),
        "refusal": None,
        "reasoning": done.reasoning,
        "reasoning_content": done.reasoning,
    }
    if calls:
        message["tool_calls"] = [call_members(call) for call in calls]
    return {
        "index": index,
        "message": message,
        "logprobs": None if choice.logprobs is None else chat_logprobs(choice.logprobs),
        "finish_reason": finish_reason(done, calls_tools=choice.calls_tools),
    }
