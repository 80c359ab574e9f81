"""Make a conversation fit: the oldest turns go first, then the middle of the last question. Only where the user asked.

Pure, given a function that counts the tokens of messages: knows no template and no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from qwenctl.core import Message

Count = Callable[[Sequence[Message]], int]

_MAX_CHARACTERS_PER_TOKEN = 16  # of what is kept: long texts are not tried whole again and again


@dataclass(frozen=True, slots=True)
class PromptCut:
    """What was left out of a prompt."""

    n_dropped_turns: int  # a turn: a question with all that follows until the next
    n_cut_characters: int  # from the middle of the last question
    n_tokens_before: int
    n_tokens_after: int

    @property
    def sentence(self) -> str:
        """One line for people."""
        turns = "the oldest turn was" if self.n_dropped_turns == 1 else f"the {self.n_dropped_turns} oldest turns were"
        dropped = f"{turns} left out" if self.n_dropped_turns else ""
        cut = f"{self.n_cut_characters} characters were cut from the middle of the last message"
        what = " and ".join(part for part in (dropped, cut if self.n_cut_characters else "") if part)
        return f"the prompt was cut from {self.n_tokens_before} to {self.n_tokens_after} tokens: {what}"


def cut_messages(
    messages: Sequence[Message], n_tokens: int, max_tokens: int, count: Count
) -> tuple[list[Message], PromptCut] | None:
    """Return the messages that remain of `messages`, and what was left out; None when even that is too long.

    Args:
        messages: system messages before the first question are always kept.
        n_tokens: what `count(messages)` is.
        max_tokens: what they may count.
        count: tokens of messages; more messages or longer ones never count less.
    """
    head, turns = _turns(messages)
    if not turns:
        return None

    def fits(rest: Sequence[Message]) -> bool:
        return count([*head, *rest]) <= max_tokens

    n_dropped = _first(lambda n: fits(_flat(turns[n:])), 1, len(turns))
    if n_dropped < len(turns):
        kept, n_cut = _flat(turns[n_dropped:]), 0
    else:
        n_dropped = len(turns) - 1
        shortened = _shorten(turns[-1], max_tokens, fits)
        if shortened is None:
            return None
        kept, n_cut = shortened
    remaining = [*head, *kept]
    return remaining, PromptCut(n_dropped, n_cut, n_tokens, count(remaining))


def _turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """Split into what precedes the first question, and the turns."""
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    ends = [*starts[1:], len(messages)]
    head = list(messages[: starts[0]] if starts else messages)
    return head, [list(messages[start:end]) for start, end in zip(starts, ends, strict=True)]


def _shorten(
    turn: Sequence[Message], max_tokens: int, fits: Callable[[Sequence[Message]], bool]
) -> tuple[list[Message], int] | None:
    question, rest = turn[0], turn[1:]
    text = question.content

    def with_characters(n: int) -> list[Message]:
        n_begin = n - n // 2
        middle = f"\n[… {len(text) - n} characters cut …]\n"
        content = text[:n_begin] + middle + text[len(text) - n // 2 :]
        return [replace(question, content=content), *rest]

    n_most = min(len(text) - 1, _MAX_CHARACTERS_PER_TOKEN * max_tokens)
    n_kept = n_most - _first(lambda n: fits(with_characters(n_most - n)), 0, n_most + 1)
    return (with_characters(n_kept), len(text) - n_kept) if n_kept >= 0 else None


def _first(is_true: Callable[[int], bool], start: int, stop: int) -> int:
    """Return the smallest number from `start` on for which `is_true`, `stop` if there is none; bisection."""
    while start < stop:
        middle = (start + stop) // 2
        if is_true(middle):
            stop = middle
        else:
            start = middle + 1
    return start


def _flat(turns: Sequence[Sequence[Message]]) -> list[Message]:
    return [message for turn in turns for message in turn]
