"""Styled lines for a terminal, drawn by rich. Knows nothing of Markdown and chats."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from io import StringIO

from rich.color import ColorSystem
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.theme import Theme as RichTheme

from qwenctl.cli.cell_widths import chopped, most_cells
from qwenctl.cli.theme import DARK, Theme

TerminalSize = Callable[[], tuple[int, int]]  # columns, lines
Write = Callable[[str], None]  # writes and flushes

STYLE = re.compile(r"\x1b\[[0-9;]*m")
_STYLED_PART = re.compile(rf"{STYLE.pattern}|.", re.DOTALL)
_NARROWEST = 8


def render_lines(renderable: RenderableType, columns: int, theme: Theme = DARK) -> list[str]:
    """Return `renderable` as styled lines, without the blanks that rich fills lines up with and blank lines around.

    They are one column narrower than the terminal: a full line leaves the cursor in limbo. That holds on every
    terminal, also on those that take a family of emoji for three.
    """
    width = max(_NARROWEST, columns - 1)
    console = Console(
        file=StringIO(),
        force_terminal=True,
        color_system="standard",
        width=width,
        emoji=False,
        theme=RichTheme(dict(theme.markdown)),
    )
    drawn = [_without_blanks(line) for line in console.render_lines(renderable, pad=False)]
    return _without_blank_ends([_styled(part) for line in drawn for part in _safe_parts(line, width)])


def n_visible(line: str) -> int:
    """Return the characters of a styled line that are neither blanks nor styles."""
    return sum(not char.isspace() for char in STYLE.sub("", line))


def lines_after(lines: Sequence[str], n_characters: int) -> list[str]:
    """Return what follows the first `n_characters` of styled lines; blanks and styles do not count."""
    for index, line in enumerate(lines):
        if n_visible(line) > n_characters:
            return [_line_after(line, n_characters), *lines[index + 1 :]]
        n_characters -= n_visible(line)
    return []


def _line_after(line: str, n_characters: int) -> str:
    if not n_characters:
        return line
    styles = ""
    for part in _STYLED_PART.finditer(line):
        if STYLE.fullmatch(part[0]):
            styles += part[0]
        elif not part[0].isspace():
            n_characters -= 1
            if not n_characters:
                return styles + line[part.end() :].lstrip()
    return ""


def _without_blanks(segments: Sequence[Segment]) -> list[Segment]:
    kept = list(segments)
    while kept and not kept[-1].text.strip():
        kept.pop()
    if kept:
        kept[-1] = Segment(kept[-1].text.rstrip(), kept[-1].style)
    return kept


def _safe_parts(line: list[Segment], width: int) -> list[list[Segment]]:
    """Cut a line that rich takes for short enough, but some terminal may not: at blanks, where there are any."""
    text = "".join(segment.text for segment in line)
    parts = []
    while most_cells(text) > width:
        n_characters = len(chopped(text, width)[0])
        n_characters = text.rfind(" ", 1, n_characters) + 1 or n_characters
        part, line = _split(line, n_characters)
        parts.append(_without_blanks(part))
        text = text[n_characters:]
    return [*parts, line]


def _split(line: list[Segment], n_characters: int) -> tuple[list[Segment], list[Segment]]:
    before: list[Segment] = []
    for index, (text, style, _) in enumerate(line):
        if len(text) > n_characters:
            rest = [Segment(text[n_characters:], style), *line[index + 1 :]]
            return [*before, Segment(text[:n_characters], style)], rest
        before.append(line[index])
        n_characters -= len(text)
    return before, []


def _styled(segments: Sequence[Segment]) -> str:
    return "".join(
        style.render(text, color_system=ColorSystem.STANDARD) if style else text for text, style, _ in segments
    )


def _without_blank_ends(lines: list[str]) -> list[str]:
    while lines and not lines[-1]:
        lines.pop()
    first = next((index for index, line in enumerate(lines) if line), 0)
    return lines[first:]
