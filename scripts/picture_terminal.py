#!/usr/bin/env python3
"""Draw what a program shows on a terminal as a picture (SVG), so that screens can be reviewed by looking at them.

    python scripts/picture_terminal.py chat.svg --columns 80 --rows 24 --type 'Hello\\r' --until '%)' -- qwenctl chat

The program runs on a pseudo-terminal; a text is typed when the one before it has had its effect. Needs pyte, which the
tests need, too; the picture itself is written here and looks the same in every browser.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from pyte.screens import Char, Screen

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.cli.terminal import Terminal

CELL_WIDTH, CELL_HEIGHT, FONT_SIZE, BASELINE, MARGIN = 8.4, 18, 14, 14, 10
# The terminal's own sixteen colours, as xterm has them on either background.
_NAMES = ("black", "red", "green", "brown", "blue", "magenta", "cyan", "white")
_DARK = ("#000000", "#cd3131", "#0dbc79", "#e5e510", "#3b78ff", "#bc3fbc", "#11a8cd", "#e5e5e5")
_LIGHT = ("#000000", "#cd3131", "#00802b", "#949800", "#0451a5", "#bc05bc", "#0598bc", "#a5a5a5")
_BRIGHT = {"black": "#767676", "blue": "#6f9bff", "red": "#f14c4c", "green": "#23d18b", "cyan": "#29b8db"}
BACKGROUNDS = {
    "dark": ("#1e1e1e", "#d4d4d4", dict(zip(_NAMES, _DARK, strict=True))),
    "light": ("#ffffff", "#202020", dict(zip(_NAMES, _LIGHT, strict=True))),
}


def main() -> None:
    """Run the program and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--columns", type=int, default=80)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--background", choices=BACKGROUNDS, default="dark")
    parser.add_argument("--type", action="append", default=[], metavar="TEXT", help=r"\r is Enter; may be repeated")
    parser.add_argument("--until", action="append", default=[], metavar="TEXT", help="what to wait for; one a --type")
    parser.add_argument("program", nargs="+")
    args = parser.parse_args()
    with Terminal(args.program, columns=args.columns, rows=args.rows) as terminal:
        for typed, shown in zip(args.type, args.until, strict=True):
            n_before = terminal.text.count(shown)
            terminal.send(typed.encode().decode("unicode_escape"))
            terminal.wait_for(lambda text, n=n_before, shown=shown: text.count(shown) > n)
        args.picture.write_text(picture(terminal.screen, args.background), encoding="utf-8")


def picture(screen: Screen, background: str = "dark") -> str:
    """Return the screen as SVG: one text element a run of cells that look alike."""
    paper, ink, colours = BACKGROUNDS[background]
    width, height = screen.columns * CELL_WIDTH + 2 * MARGIN, screen.lines * CELL_HEIGHT + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}"'
        f' font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="{FONT_SIZE}">',
        f'<rect width="100%" height="100%" fill="{paper}"/>',
    ]
    for row in range(screen.lines):
        for run in _runs(screen, row):
            parts += _drawn(run, row, paper, ink, colours)
    x, y = MARGIN + screen.cursor.x * CELL_WIDTH, MARGIN + screen.cursor.y * CELL_HEIGHT
    parts.append(f'<rect x="{x:.1f}" y="{y}" width="{CELL_WIDTH}" height="{CELL_HEIGHT}" fill="{ink}" opacity="0.5"/>')
    return "\n".join([*parts, "</svg>\n"])


class Run(NamedTuple):
    """Cells side by side that look alike."""

    column: int
    n_cells: int
    text: str
    style: Char


def _runs(screen: Screen, row: int) -> list[Run]:
    runs: list[Run] = []
    for column in range(screen.columns):
        cell = screen.buffer[row][column]
        style = cell._replace(data="")
        last = runs[-1] if runs else None
        # A wide character stands alone, so that its width in the font does not move what follows.
        if last and last.style == style and cell.data.isascii() and last.text.isascii() and cell.data:
            runs[-1] = last._replace(n_cells=last.n_cells + 1, text=last.text + cell.data)
        elif cell.data:
            runs.append(Run(column, 1, cell.data, style))
        elif last:  # the right half of a wide character
            runs[-1] = last._replace(n_cells=last.n_cells + 1)
    return runs


def _drawn(run: Run, row: int, paper: str, ink: str, colours: dict[str, str]) -> list[str]:
    style = run.style
    fill, behind = _colour(style.fg, ink, colours), _colour(style.bg, paper, colours)
    if style.reverse:
        fill, behind = behind, fill
    x, y = MARGIN + run.column * CELL_WIDTH, MARGIN + row * CELL_HEIGHT
    parts = []
    if behind != paper:
        width = run.n_cells * CELL_WIDTH
        parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{CELL_HEIGHT}" fill="{behind}"/>')
    look = (
        (' font-weight="bold"' if style.bold else "")
        + (' font-style="italic"' if style.italics else "")
        + (' text-decoration="underline"' if style.underscore else "")
        + (' text-decoration="line-through"' if style.strikethrough else "")
        + (' opacity="0.55"' if style.blink else "")
    )
    for words in re.finditer(r"\S+(?: \S+)*", run.text):  # SVG would draw several blanks as one
        n_cells = len(words[0]) if run.text.isascii() else run.n_cells
        length = f' textLength="{n_cells * CELL_WIDTH:.1f}" lengthAdjust="spacingAndGlyphs"'
        left = x + words.start() * CELL_WIDTH
        parts.append(f'<text x="{left:.1f}" y="{y + BASELINE}" fill="{fill}"{length}{look}>{escape(words[0])}</text>')
    return parts


def _colour(name: str, default: str, colours: dict[str, str]) -> str:
    if name == "default":
        return default
    if name.startswith("bright"):
        return _BRIGHT.get(name.removeprefix("bright"), "#ffffff")
    return colours.get(name, f"#{name}")


if __name__ == "__main__":
    main()
