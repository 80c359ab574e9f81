"""Show Markdown on a terminal while it streams in.

Finished blocks go to the terminal for good, so they scroll and copy like any text; only the block being written is
redrawn. Code is highlighted line by line, begins at the left margin and is never wrapped by us, so that it can be
copied.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text

from qwenctl.cli.cell_widths import chopped, most_cells
from qwenctl.cli.live_region import LiveRegion
from qwenctl.cli.markdown_blocks import Block, BlockSplitter, CodeClose, CodeLine, CodeOpen, Prose
from qwenctl.cli.markdown_prose import MarkdownProse
from qwenctl.cli.terminal_safety import without_controls
from qwenctl.cli.terminal_text import TerminalSize, Write, lines_after, n_visible, render_lines
from qwenctl.cli.theme import DARK, Theme

_CODE_LINES_READ_BACK = 80  # of the code above a line, for strings and comments that began there
_LIVE_LINES_READ_BACK = 10  # for the line that is being written
_TAB = 4
_DRAWING_SHARE = 0.1  # of the time, at most, that drawing what is unfinished may take


class MarkdownStream:
    """One answer on its way to the terminal.

    Args:
        write: writes and flushes text on the terminal.
        size: returns (columns, lines) of the terminal.
        clock: returns seconds. A table or paragraph that is long to draw is drawn less often than it grows.
    """

    def __init__(
        self, write: Write, size: TerminalSize, theme: Theme = DARK, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size, self._theme, self._clock = size, theme, clock
        self._region = LiveRegion(write, size)
        self._splitter = BlockSplitter()
        self._code: list[str] = []
        self._language = ""
        self._wrote = False
        self._settled: list[str] = []  # lines of the unfinished block that have left the region at its top
        self._settled_columns = 0  # of the terminal when it was; 0: several
        self._rests_until_s = 0.0

    def feed(self, text: str) -> None:
        """Take more of the answer. Control characters are taken out: the text comes from a model."""
        finished = [line for block in self._splitter.feed(without_controls(text)) for line in self._final(block)]
        if finished:
            self._region.commit(finished)
        started_s = self._clock()
        if finished or started_s >= self._rests_until_s:
            self._show_unfinished()
            ended_s = self._clock()
            self._rests_until_s = ended_s + (ended_s - started_s) / _DRAWING_SHARE

    def finish(self) -> None:
        """Commit what is left."""
        self._region.commit([line for block in self._splitter.finish() for line in self._final(block)])

    def _final(self, block: Block) -> list[str]:
        """Return the styled lines of a finished block that are not on the screen for good."""
        match block:
            case Prose():
                lines = self._without_settled(self._gap(block.blank_before) + self._prose_lines(block))
                self._settled = []
                self._wrote = True
                return lines
            case CodeOpen(language, _, blank_before):
                self._code, self._language = [], language
                gap = self._gap(blank_before)
                self._wrote = True
                return [*gap, *self._fence_line(f"```{language}")]
            case CodeLine(text):
                self._code.append(text.expandtabs(_TAB))
                return [self._code_line(self._code[-_CODE_LINES_READ_BACK:])]
            case CodeClose():
                return self._fence_line("```")

    def _gap(self, blank_before: bool) -> list[str]:
        return [""] if blank_before and self._wrote else []

    def _show_unfinished(self) -> None:
        pending = self._splitter.pending
        if pending is None:
            self._region.show([])
        elif isinstance(pending, CodeLine):
            self._region.show(self._live_code(pending.text.expandtabs(_TAB)))
        else:
            lines = self._without_settled(self._gap(pending.blank_before) + self._prose_lines(pending))
            self._show_prose(lines, self._size()[1], may_settle=not pending.is_table)

    def _show_prose(self, lines: list[str], n_rows: int, *, may_settle: bool) -> None:
        """Show an unfinished block. One that outgrows the screen scrolls off at its top before it had to be redrawn.

        The first lines of a long paragraph change no more but for emphasis that is still open; a table's columns may.
        """
        if len(lines) < n_rows - 1 or not may_settle:
            self._region.show(lines)
            return
        n_settled = len(lines) - n_rows // 2
        if self._settled_columns != self._size()[0]:
            self._settled_columns = 0 if self._settled else self._size()[0]
        self._settled += lines[:n_settled]
        if len(lines) == n_rows - 1:
            self._region.show(lines)
            self._region.settle(n_settled)
        else:  # more than the region can hold
            self._region.commit(lines[:n_settled])
            self._region.show(lines[n_settled:])

    def _without_settled(self, lines: list[str]) -> list[str]:
        """Return the lines that are not settled; all of them if those that are have changed after all."""
        if lines[: len(self._settled)] == self._settled:
            return lines[len(self._settled) :]
        if self._settled_columns != self._size()[0]:  # wrapped anew: what is settled ends within a line
            self._settled_columns = 0
            return lines_after(lines, sum(map(n_visible, self._settled)))
        self._settled = []
        return lines

    def _prose_lines(self, block: Prose) -> list[str]:
        inner: RenderableType = MarkdownProse(block.source.expandtabs(_TAB))
        if block.indent:
            inner = Padding(inner, (0, 0, 0, min(block.indent, self._size()[0] // 2)))
        return render_lines(inner, self._size()[0], self._theme)

    def _live_code(self, text: str) -> list[str]:
        columns = max(1, self._size()[0] - 1)
        if most_cells(text) <= columns:
            return [self._code_line([*self._code[-_LIVE_LINES_READ_BACK:], text])]
        return chopped(text, columns)

    def _code_line(self, lines: list[str]) -> str:
        """Return the last of `lines` of code, highlighted."""
        if self._theme.code is None:
            return lines[-1].rstrip()
        code = "\n".join(lines)
        text = Syntax(code, self._language or "text", theme=self._theme.code, background_color="default")
        line = text.highlight(code).split("\n", allow_blank=True)[len(lines) - 1]
        return "".join(render_lines(line, most_cells(line.plain) + 2, self._theme))

    def _fence_line(self, text: str) -> list[str]:
        return render_lines(Text(text, style="dim"), self._size()[0], self._theme)
