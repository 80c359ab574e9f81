"""One choice of an answer in the making: the engine's events to pieces that a stream can send, and to the whole.

Reasoning is told from answer by reply.py; calls of tools are told from text by a parser that is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from qwenctl.core import Finished, GenerationEvent, PromptProgress, TokenLogprob
from qwenctl.services.api.chat_answer import CalledTool, ChatChoice
from qwenctl.services.reply import AnswerDelta, ReasoningDelta, ReplyAssembler, ReplyDone


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call begins; `number` counts those of a choice."""

    number: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments, JSON in pieces."""

    number: int
    text: str


class ToolTextParser(Protocol):
    """Tells calls from text, as the text comes."""

    def feed(self, text: str) -> Sequence[str | CallBegin | CallArguments]:
        """Return what `text` settles."""

    def finish(self) -> Sequence[str | CallBegin | CallArguments]:
        """The text is over: return what was held back."""


ChoicePiece = PromptProgress | ReasoningDelta | AnswerDelta | CallBegin | CallArguments | ReplyDone


class ChoiceReader:
    """Reads one choice of a chat.

    Args:
        starts_inside: the prompt has opened the think block.
        parser: where tools may be called.
        wants_logprobs: whether they were asked for.
    """

    def __init__(self, *, starts_inside: bool, parser: ToolTextParser | None, wants_logprobs: bool) -> None:
        self.done: ReplyDone | None = None
        self._assembler = ReplyAssembler(starts_inside=starts_inside)
        self._parser = parser
        self._logprobs: list[TokenLogprob] | None = [] if wants_logprobs else None
        self._texts: list[str] = []
        self._calls: list[_Call] = []

    @property
    def calls_tools(self) -> bool:
        """Whether a call has begun."""
        return bool(self._calls)

    def take(self, event: GenerationEvent) -> list[ChoicePiece]:
        """Return what `event` brings."""
        pieces: list[ChoicePiece] = []
        for item in self._assembler.take(event):
            if isinstance(item, AnswerDelta):
                pieces += self._answer(item)
            elif isinstance(item, ReplyDone):
                self.done = item
                if self._parser is not None:
                    pieces += self._parsed(self._parser.finish(), ())
                pieces.append(item)
            else:
                pieces.append(item)
        return pieces

    def choice(self) -> ChatChoice:
        """Return the whole.

        Raises:
            ValueError: it has not ended.
        """
        if self.done is None:
            raise ValueError("the reply has not ended")
        calls = tuple(CalledTool(call.id, call.name, "".join(call.arguments)) for call in self._calls)
        logprobs = None if self._logprobs is None else tuple(self._logprobs)
        return ChatChoice(self.done, "".join(self._texts), calls, logprobs)

    def _answer(self, delta: AnswerDelta) -> list[ChoicePiece]:
        if self._logprobs is not None:
            self._logprobs += delta.logprobs
        if self._parser is None:
            self._texts.append(delta.text)
            return [delta]
        return self._parsed(self._parser.feed(delta.text), delta.logprobs)

    def _parsed(
        self, parts: Sequence[str | CallBegin | CallArguments], logprobs: tuple[TokenLogprob, ...]
    ) -> list[ChoicePiece]:
        pieces: list[ChoicePiece] = []
        for part in parts:
            if isinstance(part, str):
                self._texts.append(part)
                pieces.append(AnswerDelta(part, logprobs))
                logprobs = ()
                continue
            if isinstance(part, CallBegin):
                self._calls.append(_Call(part.id, part.name))
            else:
                self._calls[part.number].arguments.append(part.text)
            pieces.append(part)
        return pieces


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


class PlainReader:
    """Reads one choice of a completion: all of it is answer."""

    def __init__(self, *, wants_logprobs: bool) -> None:
        self.done: ReplyDone | None = None
        self.n_chars = 0  # so far
        self._texts: list[str] = []
        self._logprobs: list[TokenLogprob] | None = [] if wants_logprobs else None

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """Those of all tokens; None where they were not asked for."""
        return None if self._logprobs is None else tuple(self._logprobs)

    def take(self, event: GenerationEvent) -> AnswerDelta | ReplyDone | None:
        """Return what `event` brings."""
        if isinstance(event, PromptProgress):
            return None
        if isinstance(event, Finished):
            text = "".join(self._texts)
            self.done = ReplyDone(
                event.reason, event.usage, event.timing, 0, None, text, True, event.error, event.stop_text
            )
            return self.done
        self._texts.append(event.text)
        self.n_chars += len(event.text)
        if self._logprobs is not None:
            self._logprobs += event.logprobs
        return AnswerDelta(event.text, event.logprobs)
