"""The few last lines on the screen that are still being changed.

Lines above the region are the terminal's own and never touched again. An update rewrites from the first line that
differs, in one write, so nothing flickers; text that only grows is written as it comes. Knows escape sequences; nothing
of Markdown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwenctl.cli.cell_widths import joins
from qwenctl.cli.output import cell_width
from qwenctl.cli.terminal_text import STYLE

_ERASE_LINE_END, _ERASE_BELOW = "\x1b[K", "\x1b[J"
# Terminals that know mode 2026 draw what lies between as one picture; the others pass over it.
# Source: https://gist.github.com/christianparpart/d8a62cc1ab659194337d73e399004036
_BEGIN_PICTURE, _END_PICTURE = "\x1b[?2026h", "\x1b[?2026l"


class LiveRegion:
    """Lines at the bottom of what was written so far. Outside a region the cursor stands at the start of a line.

    Args:
        write: writes and flushes text on the terminal.
        size: returns (columns, lines) of the terminal.
    """

    def __init__(self, write: Callable[[str], None], size: Callable[[], tuple[int, int]]) -> None:
        self._write, self._size = write, size
        self._lines: list[str] = []

    def show(self, lines: Sequence[str]) -> None:
        """Show `lines` (styled, narrower than the terminal) as the region; of too many, the last ones."""
        new = list(lines)[-max(1, self._size()[1] - 1) :]
        if new != self._lines:
            self._write(self._rewrite(new))
            self._lines = new

    def commit(self, lines: Sequence[str]) -> None:
        """Replace the region by `lines`, which are final, and start an empty one below them."""
        text = self._rewrite(list(lines))
        if text or lines:
            self._write(text + "\n" * bool(lines))
        self._lines = []

    def settle(self, n_lines: int) -> None:
        """Make the first lines of the region final, as they are; not all of them. Nothing is written."""
        if not 0 <= n_lines < len(self._lines):
            raise ValueError(f"{n_lines} of {len(self._lines)} lines cannot be settled")
        self._lines = self._lines[n_lines:]

    def clear(self) -> None:
        """Take the region off the screen."""
        self.commit(())

    def _rewrite(self, new: list[str]) -> str:
        """Return what turns the region on the screen into `new`, the cursor at the end of its last line."""
        old = self._lines
        if new == old:
            return ""
        pairs = zip(old, new, strict=False)
        same = next((index for index, (before, after) in enumerate(pairs) if before != after), min(len(old), len(new)))
        below = "".join("\n" + line for line in new[len(old) :])
        if old and same == len(old):  # new lines below the old ones
            return below
        if old and same == len(old) - 1 < len(new) and _has_grown(old[same], new[same]):
            return new[same][len(old[same]) :] + below
        same = min(same, max(0, len(new) - 1))
        text = self._back_to(same) + "\n".join(line + _ERASE_LINE_END for line in new[same:])
        text += _ERASE_BELOW if self._n_rows_from(same) > len(new) - same else ""
        return f"{_BEGIN_PICTURE}{text}{_END_PICTURE}" if text.startswith("\x1b[") else text

    def _back_to(self, line: int) -> str:
        """Return what moves the cursor from the region's end to the start of `line` of it."""
        if not self._lines:
            return ""
        rows = self._n_rows_from(line) - 1
        return (f"\x1b[{rows}A" if rows else "") + "\r"

    def _n_rows_from(self, line: int) -> int:
        """Return the rows that the region takes from `line` on: a terminal made narrower has wrapped lines since."""
        columns = max(1, self._size()[0])
        return sum(_n_rows(shown, columns) for shown in self._lines[line:])


def _has_grown(old: str, new: str) -> bool:
    return new.startswith(old) and not joins(old, new[len(old) :])


def _n_rows(line: str, columns: int) -> int:
    return max(1, -(-cell_width(STYLE.sub("", line)) // columns))
