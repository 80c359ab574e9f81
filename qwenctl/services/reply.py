"""One reply as it comes: the engine's events sorted into reasoning and answer, and counted.

Knows tags (thinking.py) and events (core.py), but no engine: whoever steps the engine hands the events over.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwenctl.core import (
    Finished,
    FinishReason,
    GenerationEvent,
    PromptProgress,
    ThinkingEnd,
    Timing,
    TokenLogprob,
    Usage,
)
from qwenctl.services.thinking import Piece, ThinkingSplitter


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Newly generated reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """Newly generated answer."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()  # where they were asked for


@dataclass(frozen=True, slots=True)
class ReplyDone:
    """The last event of a reply, with all of its text."""

    reason: FinishReason
    usage: Usage
    timing: Timing
    n_reasoning_tokens: int  # of the generated ones; tags included
    reasoning: str | None
    answer: str
    closed: bool  # False: the reply ended within its reasoning
    error: str | None = None
    stop_text: str | None = None  # the stop string that ended it
    thinking_end: ThinkingEnd | None = None

    @property
    def is_cut(self) -> bool:
        """Whether something else than the model ended it."""
        return self.reason is not FinishReason.STOP or self.stop_text is not None


ReplyEvent = PromptProgress | ReasoningDelta | AnswerDelta | ReplyDone


class ReplyAssembler:
    """Turns the events of one request into those of a reply; `reasoning` and `answer` hold what came so far.

    Args:
        starts_inside: the prompt has opened the think block.
    """

    def __init__(self, *, starts_inside: bool) -> None:
        self._splitter = ThinkingSplitter(starts_inside=starts_inside)
        self._reasoning: list[str] = []
        self._answer: list[str] = []
        self._logprobs: list[TokenLogprob] = []  # of tokens whose text may yet be answer
        self._n_thinking_tokens = 0

    @property
    def reasoning(self) -> str | None:
        """The reasoning so far; None when there is none."""
        return "".join(self._reasoning) or None

    @property
    def answer(self) -> str:
        """The answer so far."""
        return "".join(self._answer)

    def take(self, event: GenerationEvent) -> list[ReplyEvent]:
        """Return what `event` brings; the last one of a request brings a `ReplyDone`, at the end."""
        if isinstance(event, Finished):
            events = self._sorted(self._splitter.finish())
            return [*events, self._done(event)]
        if isinstance(event, PromptProgress):
            return [event]
        if not self._splitter.in_answer:
            self._n_thinking_tokens = event.n_tokens
        self._logprobs += event.logprobs
        events = self._sorted(self._splitter.feed(event.text))
        if not self._splitter.may_be_answer:
            self._logprobs.clear()
        return events

    def _sorted(self, pieces: list[Piece]) -> list[ReplyEvent]:
        events: list[ReplyEvent] = []
        for piece in pieces:
            if piece.kind == "reasoning":
                self._reasoning.append(piece.text)
                events.append(ReasoningDelta(piece.text))
            else:
                self._answer.append(piece.text)
                events.append(AnswerDelta(piece.text, tuple(self._logprobs)))
                self._logprobs.clear()
        return events

    def _done(self, event: Finished) -> ReplyDone:
        return ReplyDone(
            reason=event.reason,
            usage=event.usage,
            timing=event.timing,
            n_reasoning_tokens=self._n_reasoning_tokens(event.usage),
            reasoning=self.reasoning,
            answer=self.answer,
            closed=self._splitter.closed,
            error=event.error,
            stop_text=event.stop_text,
            thinking_end=event.thinking_end,
        )

    def _n_reasoning_tokens(self, usage: Usage) -> int:
        if not self._reasoning:
            return 0
        return self._n_thinking_tokens if self._splitter.closed else usage.n_generated_tokens
