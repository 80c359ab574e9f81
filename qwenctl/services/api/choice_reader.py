"""One choice of an answer in the making: the engine's events to pieces that a stream can send, and to the whole.

Reasoning is told from answer by reply.py, calls of tools from text by tool_call_parser.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from secrets import token_hex

from qwenctl.core import Finished, GenerationEvent, PromptProgress, TokenLogprob
from qwenctl.services.api.chat_answer import ArgumentsDelta, CalledTool, ChatChoice
from qwenctl.services.reply import AnswerDelta, ReasoningDelta, ReplyAssembler, ReplyDone
from qwenctl.services.tools.call_parts import ArgumentsPiece, CallBegun, CallEnded, Part
from qwenctl.services.tools.tool_call import ToolCall
from qwenctl.services.tools.tool_call_parser import ToolCallParser

ChoicePiece = PromptProgress | ReasoningDelta | AnswerDelta | CalledTool | ArgumentsDelta | ReplyDone


@dataclass(slots=True)
class _Calling:
    """A call, as far as it has come."""

    opening: CalledTool
    arguments: list[str] = field(default_factory=list)
    is_whole: bool = False

    def called(self) -> CalledTool:
        return replace(self.opening, arguments="".join(self.arguments), is_whole=self.is_whole)


class ChoiceReader:
    """Reads one choice of a chat.

    Args:
        starts_inside: the prompt has opened the think block.
        parser: where tools may be called.
        parallel_calls: whether a reply may hold more than one call; if not, later ones are dropped.
        wants_logprobs: whether they were asked for.
    """

    def __init__(
        self, *, starts_inside: bool, parser: ToolCallParser | None, parallel_calls: bool, wants_logprobs: bool
    ) -> None:
        self.done: ReplyDone | None = None
        self._assembler = ReplyAssembler(starts_inside=starts_inside)
        self._parser = parser
        self._parallel_calls = parallel_calls
        self._logprobs: list[TokenLogprob] | None = [] if wants_logprobs else None
        self._texts: list[str] = []
        self._calls: list[_Calling] = []
        self._drops = False  # the call that is under way

    def take(self, event: GenerationEvent) -> list[ChoicePiece]:
        """Return what `event` brings."""
        pieces: list[ChoicePiece] = []
        for item in self._assembler.take(event):
            if isinstance(item, AnswerDelta):
                pieces += self._answer(item)
            elif isinstance(item, ReplyDone):
                self.done = item
                if self._parser is not None:
                    pieces += self._parsed(self._parser.finish(cut=item.is_cut), ())
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
        logprobs = None if self._logprobs is None else tuple(self._logprobs)
        return ChatChoice(self.done, "".join(self._texts), tuple(call.called() for call in self._calls), logprobs)

    def _answer(self, delta: AnswerDelta) -> list[ChoicePiece]:
        if self._logprobs is not None:
            self._logprobs += delta.logprobs
        if self._parser is None:
            self._texts.append(delta.text)
            return [delta]
        return self._parsed(self._parser.feed(delta.text), delta.logprobs)

    def _parsed(self, parts: Sequence[Part], logprobs: tuple[TokenLogprob, ...]) -> list[ChoicePiece]:
        pieces: list[ChoicePiece] = []
        for part in parts:
            if isinstance(part, str):
                self._texts.append(part)
                pieces.append(AnswerDelta(part, logprobs))
                logprobs = ()
            elif isinstance(part, ToolCall):
                whole = CallBegun(part.name), ArgumentsPiece(part.json_arguments), CallEnded(is_whole=True)
                pieces += [piece for one in whole for piece in self._call(one)]
            else:
                pieces += self._call(part)
        return pieces

    def _call(self, part: CallBegun | ArgumentsPiece | CallEnded) -> list[ChoicePiece]:
        if isinstance(part, CallBegun):
            self._drops = bool(self._calls) and not self._parallel_calls
            if not self._drops:
                opening = CalledTool(f"call_{token_hex(12)}", part.name, "", len(self._calls))
                self._calls.append(_Calling(opening))
                return [opening]
        elif self._drops:
            return []
        elif isinstance(part, ArgumentsPiece):
            self._calls[-1].arguments.append(part.json)
            return [ArgumentsDelta(len(self._calls) - 1, part.json)]
        else:
            self._calls[-1].is_whole = part.is_whole
        return []


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
