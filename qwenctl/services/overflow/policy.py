"""What may be done with a prompt that is too long, and what has been done. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

OverflowPolicy = Literal["refuse", "truncate-middle", "summarise"]

_ROOM_FOR_ANSWER = 1024  # tokens that a shortened prompt leaves, where the context is large enough

_SHORT_ANSWER = 256


def fits(n_tokens: int, n_ctx: int, max_tokens: int | None) -> bool:
    """Return whether a prompt need not be shortened, where that is allowed: there is room for a short answer."""
    return n_tokens < n_ctx and n_tokens <= n_ctx - min(max_tokens or _SHORT_ANSWER, n_ctx // 8)


def room_for_prompt(n_ctx: int, max_tokens: int | None) -> int:
    """Return the tokens that a shortened prompt may take, so that the answer has room for `max_tokens`."""
    return n_ctx - min(max_tokens or _ROOM_FOR_ANSWER, max(1, n_ctx // 4))


@dataclass(frozen=True, slots=True)
class MiddleCut:
    """What was left out of a prompt: whole turns, oldest first, or the middle of one message. Characters from 1."""

    n_tokens_before: int
    n_tokens_after: int
    n_dropped_turns: int = 0  # a turn: a question with all that follows until the next
    n_cut_characters: int = 0
    first_character: int = 0  # of what was cut
    first_line: int = 0
    last_line: int = 0

    @property
    def sentence(self) -> str:
        """One line for people."""
        what = []
        if self.n_dropped_turns:
            turns = (
                "the oldest turn was" if self.n_dropped_turns == 1 else f"the {self.n_dropped_turns} oldest turns were"
            )
            what.append(f"{turns} left out")
        if self.n_cut_characters:
            last = self.first_character + self.n_cut_characters - 1
            where = f"characters {self.first_character:,} to {last:,}, {lines_text(self.first_line, self.last_line)}"
            what.append(
                f"{self.n_cut_characters:,} characters were cut from the middle of the longest message ({where})"
            )
        counts = f"from {self.n_tokens_before:,} to {self.n_tokens_after:,} tokens"
        return f"the prompt was cut {counts}: {' and '.join(what)}"

    @property
    def values(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "kind": "truncate-middle",
            "tokens_before": self.n_tokens_before,
            "tokens_after": self.n_tokens_after,
            "dropped_turns": self.n_dropped_turns,
            "cut_characters": self.n_cut_characters,
            "first_cut_character": self.first_character or None,
            "cut_lines": [self.first_line, self.last_line] if self.n_cut_characters else None,
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """What stands in a prompt in place of longer text."""

    n_tokens_before: int
    n_tokens_after: int
    n_parts: int  # of text that the model was given one by one
    n_condensed_turns: int
    of_message: bool  # whether the last question was among it

    @property
    def sentence(self) -> str:
        """One line for people."""
        turns = "the earliest turn" if self.n_condensed_turns == 1 else f"the {self.n_condensed_turns} earliest turns"
        what = [turns] if self.n_condensed_turns else []
        what += ["the text of the last message"] if self.of_message else []
        parts = "one part" if self.n_parts == 1 else f"{self.n_parts} parts"
        counts = f"from {self.n_tokens_before:,} to {self.n_tokens_after:,} tokens"
        seen = f"the model sees its own summary of {' and '.join(what)}, made in {parts}"
        return f"the prompt was condensed {counts}: {seen}"

    @property
    def values(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "kind": "summarise",
            "tokens_before": self.n_tokens_before,
            "tokens_after": self.n_tokens_after,
            "parts": self.n_parts,
            "condensed_turns": self.n_condensed_turns,
            "condensed_message": self.of_message,
        }


Shortening = MiddleCut | Summary


def lines_text(first: int, last: int) -> str:
    """Return how lines are named."""
    return f"line {first:,}" if first == last else f"lines {first:,} to {last:,}"
