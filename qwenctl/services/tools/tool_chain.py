"""A reply in which tools are called: model, calls, approval, results, model, until it answers. Iterated like a `Reply`.

The reasoning of a turn stays with its calls (the template keeps it until the next question). Knows no screens: what is
shown of calls are the events `ToolCalled` and `ToolReturned` between those of the replies; one `ReplyDone` ends it all.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qwenctl.core import FinishReason, Message
from qwenctl.errors import InvalidRequest
from qwenctl.services.generation import ChatModel, ChatOptions, PreparedPrompt, Reply
from qwenctl.services.reply import AnswerDelta, ReplyDone, ReplyEvent
from qwenctl.services.tools.approval import NOT_APPROVED, Approval
from qwenctl.services.tools.call_parts import Part
from qwenctl.services.tools.tool import ToolResult
from qwenctl.services.tools.tool_box import ToolBox
from qwenctl.services.tools.tool_call import ToolCall, calling_message, result_message
from qwenctl.services.tools.tool_call_parser import ToolCallParser

Prepare = Callable[[Sequence[Message], ChatOptions], PreparedPrompt]


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """The model wants a call; next it is approved or not, and run."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolReturned:
    """What came of it."""

    call: ToolCall
    result: ToolResult


@dataclass(frozen=True, slots=True)
class ToolUse:
    """Tools for as long as a command runs."""

    box: ToolBox
    approval: Approval
    n_rounds: int  # how often results may go back to the model; then it must answer without tools


ChainEvent = ReplyEvent | ToolCalled | ToolReturned


class ToolChain:
    """Runs the loop while it is iterated over.

    Args:
        model: answers.
        messages, options: of the question; the tools are added.
        use: which tools.
        prepare: makes a prompt of messages, `ChatModel.prepare` or what stands before it.

    Raises:
        InvalidRequest, TemplateFailed, PromptTooLong: as `prepare`, for the first prompt at once, then while iterating.
    """

    def __init__(
        self,
        model: ChatModel,
        messages: Sequence[Message],
        options: ChatOptions,
        use: ToolUse,
        prepare: Prepare,
    ) -> None:
        if model.capabilities.tool_format is None:
            hint = "take a model that was trained for it, such as Qwen3"
            raise InvalidRequest("the model's chat template knows no calls of tools that could be read", hint)
        self._model, self._messages, self._prepare, self._use = model, list(messages), prepare, use
        self._options = replace(options, tools=use.box.definitions)
        self.steps: list[Message] = []  # between question and answer: calls and their results
        self.calls: list[ToolReturned] = []
        self.ran_out = False  # the rounds were used up
        self._cancelled = False
        self._reply: Reply | None = None  # the last one
        self._is_replying = False
        self._texts: list[str] = []  # of the last reply, without calls
        self.prepared = prepare(self._messages, self._options)
        self._events = self._run()

    def __iter__(self) -> Iterator[ChainEvent]:
        return self._events

    @property
    def reasoning(self) -> str | None:
        """The reasoning of the last reply so far."""
        return self._reply.reasoning if self._reply else None

    @property
    def answer(self) -> str:
        """The text of the last reply so far, without calls."""
        return "".join(self._texts)

    def cancel(self) -> None:
        """End early: the running reply, the running tool."""
        self._cancelled = True
        if self._reply is not None and self._is_replying:
            self._reply.cancel()

    def end_thinking(self) -> None:
        """Let the running reply answer now."""
        if self._reply is not None and self._is_replying:
            self._reply.end_thinking()

    def close(self) -> None:
        """Stop at once."""
        self._events.close()

    def _run(self) -> Generator[ChainEvent, None, None]:
        for n_left in reversed(range(self._use.n_rounds + 1)):
            done, calls = yield from self._one_reply()
            if not calls or done.reason is not FinishReason.STOP or self._cancelled:
                yield replace(done, answer=self.answer)
                return
            results: list[Message] = []
            for call in calls:
                yield ToolCalled(call)
                result = self._result(call)
                self.calls.append(ToolReturned(call, result))
                yield self.calls[-1]
                results.append(result_message(call, result.text))
            self.steps += [calling_message(self.answer, done.reasoning, calls), *results]
            if self._cancelled:
                yield replace(done, answer="", reasoning=None, reason=FinishReason.CANCELLED)
                return
            if n_left == 1:
                self.ran_out = True
                self._options = replace(self._options, tools=())
            self.prepared = self._prepare([*self._messages, *self.steps], self._options)

    def _one_reply(self) -> Generator[ChainEvent, None, tuple[ReplyDone, list[ToolCall]]]:
        """Pass on the events of one reply, and return its end and the calls in it."""
        tool_format = self._model.capabilities.tool_format
        parser = ToolCallParser(tool_format, self._use.box.definitions) if tool_format and self._options.tools else None
        texts = self._texts = []
        calls: list[ToolCall] = []

        def sorted_out(parts: Sequence[Part]) -> Iterator[AnswerDelta]:
            for part in parts:
                if isinstance(part, str):
                    texts.append(part)
                    yield AnswerDelta(part)
                elif isinstance(part, ToolCall):
                    calls.append(part)

        reply = self._reply = self._model.reply(self.prepared)
        self._is_replying = True
        try:
            for event in reply:
                if isinstance(event, AnswerDelta):
                    yield from sorted_out(parser.feed(event.text) if parser else [event.text])
                elif isinstance(event, ReplyDone):
                    yield from sorted_out(parser.finish(cut=event.is_cut) if parser else [])
                    return event, calls
                else:
                    yield event
        finally:
            self._is_replying = False
            reply.close()
        raise AssertionError("a reply ends with ReplyDone")

    def _result(self, call: ToolCall) -> ToolResult:
        refusal = self._use.box.refusal(call)
        if refusal is not None:
            return refusal
        if self._cancelled or not self._use.approval.allows(call):
            return ToolResult(NOT_APPROVED, is_error=True)
        return self._use.box.run(call, lambda: self._cancelled)


def begin_answer(
    model: ChatModel, messages: Sequence[Message], options: ChatOptions, prepare: Prepare, use: ToolUse | None
) -> Reply | ToolChain:
    """Return what answers: a chain where there are tools, else a plain reply. Raises as `prepare` does."""
    if use is None:
        return model.reply(prepare(messages, options))
    return ToolChain(model, messages, options, use, prepare)


def steps_of(answering: Reply | ToolChain) -> tuple[Message, ...]:
    """Return the messages between question and answer."""
    return tuple(answering.steps) if isinstance(answering, ToolChain) else ()


def call_record(returned: ToolReturned) -> dict[str, Any]:
    """Return a call and its result as JSON values."""
    return {
        "name": returned.call.name,
        "arguments": dict(returned.call.arguments),
        "result": returned.result.text,
        "is_error": returned.result.is_error,
    }
