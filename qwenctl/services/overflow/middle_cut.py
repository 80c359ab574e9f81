"""Make a conversation fit by leaving out its middle: of the longest message, or else the oldest turns. Pure.

    one message is much longer than fits   its middle goes, from border to border, and a line says so in its place
    many turns are too long together       the oldest go; if the last one alone is too long, its middle

Given a function that counts the tokens of messages: knows no template and no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from qwenctl.core import Message
from qwenctl.services.overflow.policy import MiddleCut, lines_text
from qwenctl.services.overflow.text_borders import border_after, border_before

Count = Callable[[Sequence[Message]], int]

_MAX_CHARACTERS_PER_TOKEN = 16  # of what is kept: long texts are not tried whole again and again
_LEAST_SHARE_KEPT = 0.1  # of a message that is cut, where others could go instead


def cut_middle(
    messages: Sequence[Message], n_tokens: int, max_tokens: int, count: Count
) -> tuple[list[Message], MiddleCut] | None:
    """Return the messages that remain of `messages`, and what was left out; None when even that is too long.

    Args:
        messages: system messages before the first question are always kept.
        n_tokens: what `count(messages)` is.
        max_tokens: what they may count.
        count: tokens of messages; more messages or longer ones never count less.
    """
    head, turns = split_turns(messages)
    if not turns:
        return None
    questions = [index for index, message in enumerate(messages) if message.role == "user"]
    longest = max(questions, key=lambda index: len(messages[index].content))
    n_needed = len(messages[longest].content) * (n_tokens - max_tokens) / n_tokens
    if len(turns) == 1 or n_needed < (1 - _LEAST_SHARE_KEPT) * len(messages[longest].content):
        shortened = _shorten(messages, longest, n_tokens, max_tokens, count)
        if shortened or len(turns) == 1:
            return shortened
    n_dropped = _first(lambda n: count([*head, *joined(turns[n:])]) <= max_tokens, 1, len(turns))
    if n_dropped < len(turns):
        remaining = [*head, *joined(turns[n_dropped:])]
        return remaining, MiddleCut(n_tokens, count(remaining), n_dropped)
    result = _shorten([*head, *turns[-1]], len(head), n_tokens, max_tokens, count)
    if result is None:
        return None
    return result[0], replace(result[1], n_dropped_turns=len(turns) - 1)


def split_turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """Split into what precedes the first question, and the turns."""
    starts = [index for index, message in enumerate(messages) if message.role == "user"]
    ends = [*starts[1:], *([len(messages)] if starts else [])]
    head = list(messages[: starts[0]] if starts else messages)
    return head, [list(messages[start:end]) for start, end in zip(starts, ends, strict=True)]


def joined(turns: Sequence[Sequence[Message]]) -> list[Message]:
    """Return the messages of turns, in order."""
    return [message for turn in turns for message in turn]


def _shorten(
    messages: Sequence[Message], index: int, n_tokens: int, max_tokens: int, count: Count
) -> tuple[list[Message], MiddleCut] | None:
    """Cut the middle of one message; None: it would not be enough."""
    text = messages[index].content

    def with_text(content: str) -> list[Message]:
        return [*messages[:index], replace(messages[index], content=content), *messages[index + 1 :]]

    def fits(n_kept: int) -> bool:
        return count(with_text(_without_middle(text, n_kept)[0])) <= max_tokens

    n_most = min(len(text) - 1, _MAX_CHARACTERS_PER_TOKEN * max_tokens)
    n_kept = n_most - _first(lambda n: fits(n_most - n), 0, n_most + 1)
    if n_kept < 0:
        return None
    content, begin, end = _without_middle(text, n_kept)
    remaining = with_text(content)
    first_line, last_line = text.count("\n", 0, begin) + 1, text.count("\n", 0, end - 1) + 1
    return remaining, MiddleCut(n_tokens, count(remaining), 0, end - begin, begin + 1, first_line, last_line)


def _without_middle(text: str, n_kept: int) -> tuple[str, int, int]:
    """Return `text` with about `n_kept` characters of both ends, and what was cut: from where, up to where.

    Borders are looked for inside of what may be kept, so that never more is.
    """
    begin, end = n_kept - n_kept // 2, len(text) - n_kept // 2
    begin, end = border_before(text, begin), min(border_after(text, end), len(text))
    lines = lines_text(text.count("\n", 0, begin) + 1, text.count("\n", 0, max(begin, end - 1)) + 1)
    mark = f"[… {end - begin:,} characters of this text ({lines}) were left out here …]"
    return f"{text[:begin].rstrip()}\n\n{mark}\n\n{text[end:].lstrip()}", begin, end


def _first(is_true: Callable[[int], bool], start: int, stop: int) -> int:
    """Return the smallest number from `start` on for which `is_true`, `stop` if there is none; bisection."""
    while start < stop:
        middle = (start + stop) // 2
        if is_true(middle):
            stop = middle
        else:
            start = middle + 1
    return start
