"""Where a text may be cut: between paragraphs, lines, sentences or words, whichever is near. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

_REACH = 400  # characters in which a border is looked for, of what is not much longer itself an eighth
_BORDERS = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(r"\n"),
    re.compile(r"[.!?…][\"')\]»”’]*\s+|[。！？]"),
    re.compile(r"\s+"),
)  # a new piece begins where a match ends


def border_before(text: str, at: int) -> int:
    """Return the best place to cut at or shortly before `at`; `at` itself where there is none."""
    begin = at - min(_REACH, at // 8)
    for border in _BORDERS:
        ends = [match.end() for match in border.finditer(text, begin, at)]
        if ends:
            return ends[-1]
    return at


def border_after(text: str, at: int) -> int:
    """Return the best place to cut at or shortly after `at`; `at` itself where there is none."""
    for border in _BORDERS:
        match = border.search(text, at, at + min(_REACH, (len(text) - at) // 8))
        if match:
            return match.end()
    return at


def pieces(text: str, most_tokens: int, count: Callable[[str], int]) -> list[str]:
    """Return `text` in pieces of at most `most_tokens`, as few as can be without much trying, cut at borders.

    Args:
        text: any.
        most_tokens: of a piece; at least one character is in each.
        count: the tokens of a text.
    """
    found = []
    while text:
        size = _fitting(text, most_tokens, count)
        if size < len(text):
            size = border_before(text, size) or size
        found.append(text[:size])
        text = text[size:]
    return found


def _fitting(text: str, most_tokens: int, count: Callable[[str], int]) -> int:
    """Return characters from the beginning of `text` that fit: all, or nearly as many as can be."""
    size = min(len(text), max(1, 4 * most_tokens))  # 4 characters a token: English
    while size > 1:
        n_tokens = count(text[:size])
        if n_tokens <= most_tokens:
            break
        size = max(1, min(size - 1, int(0.95 * size * most_tokens / n_tokens)))
    return size
