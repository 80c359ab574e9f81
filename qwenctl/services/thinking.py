"""Where the thinking ends and the answer begins: in the text that a model writes, and in what the user asked for.

Knows the tags `<think>` and `</think>` and Qwen3's soft switches `/think` and `/no_think`; nothing of templates, tokens
or screens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Literal

from qwenctl.core import Message

OPEN_TAG = "<think>"
CLOSE_TAG = "</think>"

PieceKind = Literal["reasoning", "answer"]
_SWITCH = re.compile(r"(?<!\S)/(no_)?think(?![^\s.,;:!?])")


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one kind."""

    kind: PieceKind
    text: str


class _State(Enum):
    START = auto()  # nothing but white space so far
    REASONING = auto()
    GAP = auto()  # the line breaks after </think>
    ANSWER = auto()


class ThinkingSplitter:
    """Splits the deltas of one reply into reasoning and answer, whatever their borders are.

    A think block counts only at the very beginning of a reply; later the tags are ordinary text. White space around the
    reasoning is dropped, and so are the line breaks between `</think>` and the answer. An empty block gives no piece.

    Args:
        starts_inside: the prompt has opened the block already (Thinking-2507), so the first text is reasoning.
    """

    def __init__(self, *, starts_inside: bool) -> None:
        self._state = _State.REASONING if starts_inside else _State.START
        self._held = ""  # text that may yet turn out to be part of a tag, or white space to drop
        self._has_reasoning = False

    @property
    def closed(self) -> bool:
        """False while the reasoning goes on; after `finish`: it was cut off."""
        return self._state is not _State.REASONING

    @property
    def in_answer(self) -> bool:
        """Whether reasoning, if there was any, is over and the reply can only be answer from here on."""
        return self._state in (_State.GAP, _State.ANSWER)

    @property
    def may_be_answer(self) -> bool:
        """Whether text that is held back, if any is, may still come out as answer."""
        return self._state in (_State.START, _State.ANSWER)

    def feed(self, text: str) -> list[Piece]:
        """Return the pieces that `text` settles; the rest is held back until more is known."""
        self._held += text
        pieces: list[Piece] = []
        if self._state is _State.START:
            self._leave_start()
        if self._state is _State.REASONING:
            pieces += self._reasoning()
        if self._state is _State.GAP:
            self._held = self._held.lstrip("\n")
            if self._held:
                self._state = _State.ANSWER
        if self._state is _State.ANSWER and self._held:
            pieces.append(Piece("answer", self._take(len(self._held))))
        return pieces

    def finish(self) -> list[Piece]:
        """The reply is over: return what was held back."""
        kind: PieceKind = "reasoning" if self._state is _State.REASONING else "answer"
        text = self._take(len(self._held))
        text = text.rstrip() if kind == "reasoning" else text
        return [Piece(kind, text)] if text else []

    def _leave_start(self) -> None:
        begin = self._held.lstrip()
        if begin.startswith(OPEN_TAG):
            self._held = begin[len(OPEN_TAG) :]
            self._state = _State.REASONING
        elif not OPEN_TAG.startswith(begin):
            self._state = _State.ANSWER

    def _reasoning(self) -> list[Piece]:
        if not self._has_reasoning:
            self._held = self._held.lstrip()
        end = self._held.find(CLOSE_TAG)
        settled = end if end >= 0 else len(self._held) - _length_of_begun_tag(self._held)
        text = self._take(len(self._held[:settled].rstrip()))
        if end >= 0:
            self._held = self._held.lstrip()[len(CLOSE_TAG) :]
            self._state = _State.GAP
        self._has_reasoning = self._has_reasoning or bool(text)
        return [Piece("reasoning", text)] if text else []

    def _take(self, n_characters: int) -> str:
        text, self._held = self._held[:n_characters], self._held[n_characters:]
        return text


def split_reasoning(text: str) -> tuple[str | None, str]:
    """Return the reasoning, if `text` begins with a think block, and the rest."""
    splitter = ThinkingSplitter(starts_inside=False)
    pieces = [*splitter.feed(text), *splitter.finish()]
    reasoning = "".join(piece.text for piece in pieces if piece.kind == "reasoning")
    return reasoning or None, "".join(piece.text for piece in pieces if piece.kind == "answer")


def soft_switch(messages: Sequence[Message]) -> bool | None:
    """Return what the last `/think` (True) or `/no_think` (False) in user or system text says; None without any.

    Qwen3's templates pass the switches on as they are: the model has learned them.
    """
    for message in reversed(messages):
        found = _SWITCH.findall(message.content) if message.role in ("user", "system") else []
        if found:
            return not found[-1]
    return None


def without_earlier_reasoning(messages: Sequence[Message], *, template_strips: bool) -> list[Message]:
    """Return `messages` as the template should get them, reasoning in its own field wherever it was part of the text.

    What was thought before the last question is of no use to the model. Templates like Qwen3's leave it out by
    themselves (`template_strips`) and know better where a turn with tool calls begins; from others we must keep it.
    """
    last_question = max((index for index, message in enumerate(messages) if _is_question(message)), default=-1)
    cleaned = []
    for index, message in enumerate(messages):
        reasoning, content = message.reasoning, message.content
        if message.role == "assistant" and reasoning is None:
            reasoning, content = split_reasoning(content)
        if index < last_question and not template_strips:
            reasoning = None
        cleaned.append(replace(message, content=content, reasoning=reasoning))
    return cleaned


def _is_question(message: Message) -> bool:
    """Whether a person wrote it: Qwen3 takes tool results in a user's name for no question."""
    text = message.content
    return message.role == "user" and not (text.startswith("<tool_response>") and text.endswith("</tool_response>"))


def _length_of_begun_tag(text: str) -> int:
    """How many characters at the end of `text` may be the beginning of `</think>`."""
    return next(n for n in range(len(CLOSE_TAG) - 1, -1, -1) if text.endswith(CLOSE_TAG[:n]))
