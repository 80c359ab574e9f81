"""How wide text is on a terminal that we do not know.

Terminals differ over emoji made of several characters: some draw a family of three in two cells, others in six, and a
flag in two or four. `rich.cells.cell_len` says what new ones do; here is the most that any of them needs.
"""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len, get_character_cell_size

_EMOJI_PRESENTATION = "\ufe0f"  # makes the character before it as wide as an emoji
_FLAG_HALVES = "\U0001f1e6\U0001f1ff"  # first and last
_SKIN_TONES = "\U0001f3fb\U0001f3ff"
_JOINING = frozenset({"Mn", "Mc", "Me", "Cf", "Sk"})  # marks, joiners, skin tones
_VIRAMA = 9  # the combining class of what joins two letters of an Indian script


def most_cells(text: str) -> int:
    """Return the cells that `text` fills where each of its characters is drawn by itself."""
    if text.isascii():
        return len(text)
    return max(sum(map(_most_cells_of_one, text)), cell_len(text))


def chopped(text: str, columns: int) -> list[str]:
    """Return `text` cut into pieces that fill at most `columns` cells; one character that is wider stands alone."""
    pieces, start, width = [], 0, 0
    for index, char in enumerate(text):
        cells = _most_cells_of_one(char)
        if width + cells > columns and index > start:
            pieces.append(text[start:index])
            start, width = index, 0
        width += cells
    return [*pieces, text[start:]]


def _most_cells_of_one(char: str) -> int:
    if char.isascii():
        return 1
    if _FLAG_HALVES[0] <= char <= _FLAG_HALVES[1] or _SKIN_TONES[0] <= char <= _SKIN_TONES[1]:
        return 2
    if char == _EMOJI_PRESENTATION or unicodedata.category(char) == "Mc":  # a mark with a width of its own
        return 1
    return get_character_cell_size(char)


def joins(before: str, after: str) -> bool:
    """Tell whether `after` may change how the last character of `before` is drawn: an accent, a part of an emoji.

    A terminal that gets the two in pieces may draw them as two.
    """
    if not before or not after or after[0].isascii():
        return False
    first = after[0]
    return (
        get_character_cell_size(first) == 0
        or unicodedata.category(first) in _JOINING
        or _FLAG_HALVES[0] <= first <= _FLAG_HALVES[1]
        or before[-1] == "\u200d"
        or unicodedata.combining(before[-1]) == _VIRAMA
    )
