"""Rows of numbers as rows of colours or, without colours, of characters, as wide as the terminal allows.

A number is a multiple of what is usual: 1 is neither hot nor cold. Where a row is too wide, neighbours share a cell,
which shows their mean. Coloured cells are blanks, or U+2590 with two numbers in a cell: of the block characters it is
one that Chinese, Japanese and Korean terminals draw no wider than a letter (Unicode's EastAsianWidth.txt: N, not A).
Knows nothing of experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Literal, NamedTuple

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

ColorNames = Literal["auto", "standard", "256", "truecolor", "windows"]

_RIGHT_HALF = "\u2590"
_FEWEST_CELLS = 8


class Level(NamedTuple):
    """Multiples below `below` are shown as `char` or `colour`."""

    below: float
    char: str
    colour: str


_NEVER = Level(0.0, " ", "#101010")
LEVELS = (  # colours: dark violet over red to light yellow, as matplotlib's inferno goes
    Level(0.25, ".", "#2f0a5b"),
    Level(0.5, ":", "#61136e"),
    Level(0.75, "-", "#932667"),
    Level(1.25, "=", "#c63d4d"),
    Level(2.0, "+", "#e95e29"),
    Level(3.0, "*", "#f98c0a"),
    Level(5.0, "#", "#f9bd1e"),
    Level(8.0, "%", "#f3e55d"),
    Level(float("inf"), "@", "#fcffa4"),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """How numbers are laid out in cells."""

    n_numbers: int  # in a row
    n_shared: int  # numbers that share a place
    n_places: int
    halves: bool  # two places in a cell

    @property
    def n_cells(self) -> int:
        """Terminal columns that a row takes."""
        return -(-self.n_places // 2) if self.halves else self.n_places


def lay_out(n_numbers: int, n_columns: int, *, styled: bool) -> Layout:
    """Return the finest layout of rows of `n_numbers` in `n_columns` of the terminal (never fewer than eight)."""
    room = max(_FEWEST_CELLS, n_columns)
    halves = styled and n_numbers > room
    n_shared = -(-n_numbers // (2 * room if halves else room))
    return Layout(n_numbers, n_shared, -(-n_numbers // n_shared), halves)


def plain_row(multiples: Sequence[float], layout: Layout) -> str:
    """Return a row in ASCII."""
    return "".join(_level(mean).char for mean in _means(multiples, layout))


def styled_row(multiples: Sequence[float], layout: Layout) -> Text:
    """Return a row in colours."""
    colours = [Color.parse(_level(mean).colour) for mean in _means(multiples, layout)]
    row = Text()
    if not layout.halves:
        for colour in colours:
            row.append(" ", Style(bgcolor=colour))
        return row
    for left, right in zip(colours[::2], colours[1::2] + colours[-1:] * (len(colours) % 2), strict=True):
        row.append(_RIGHT_HALF, Style(color=right, bgcolor=left))
    return row


def legend(*, styled: bool) -> list[Text]:
    """Return what characters or colours mean, in pieces that may be broken between."""
    words = [f"<{level.below:g}" for level in LEVELS[:-1]] + [f">={LEVELS[-2].below:g}"]
    levels = zip((_NEVER, *LEVELS), ("0", *words), strict=True)
    return [_sample(level, styled=styled).append(f" {word}") for level, word in levels]


def to_text(line: Text, *, styled: bool, terminal: ColorNames = "auto") -> str:
    """Return a line with the escape sequences that this terminal understands; without any if not `styled`.

    Args:
        line: the line.
        styled: whether it goes to a terminal.
        terminal: its colours; auto: as rich finds out.
    """
    if not styled:
        return line.plain.rstrip()
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, color_system=terminal, width=10_000)
    console.print(line, soft_wrap=True, end="")
    return screen.getvalue()


def _sample(level: Level, *, styled: bool) -> Text:
    if styled:
        return Text().append("  ", Style(bgcolor=Color.parse(level.colour)))
    return Text(level.char.strip() or "' '")


def _level(multiple: float) -> Level:
    if multiple == 0:
        return _NEVER
    return next(level for level in LEVELS if multiple < level.below)


def _means(multiples: Sequence[float], layout: Layout) -> list[float]:
    groups = [multiples[at : at + layout.n_shared] for at in range(0, layout.n_numbers, layout.n_shared)]
    return [sum(group) / len(group) for group in groups]
