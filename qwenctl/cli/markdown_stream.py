"""Show Markdown on a terminal while it streams in.

Finished blocks go to the terminal for good, so they scroll and copy like any text; only the block being written is
redrawn. Code is highlighted line by line and never wrapped by us, so that it can be copied.
"""

from __future__ import annotations

from typing import ClassVar

from markdown_it import MarkdownIt
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.padding import Padding
from rich.syntax import Syntax
from rich.text import Text

from qwenctl.cli.live_region import LiveRegion
from qwenctl.cli.markdown_blocks import Block, BlockSplitter, CodeClose, CodeLine, CodeOpen, Prose
from qwenctl.cli.terminal_safety import without_controls
from qwenctl.cli.terminal_text import TerminalSize, Write, render_lines

# Raw HTML and link definitions are shown as they were written: rich would drop them, and with them what was said.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable("reference")
_CODE_THEME = "ansi_dark"
_CODE_LINES_READ_BACK = 200  # of the code above a line, for strings and comments that began there


class _LeftHeading(Heading):
    """A heading flush left, without the box that rich draws around the first level."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _Prose(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "heading_open": _LeftHeading}

    def __init__(self, source: str) -> None:
        super().__init__(source, code_theme=_CODE_THEME, hyperlinks=False)
        self.parsed = _PARSER.parse(source)


class MarkdownStream:
    """One answer on its way to the terminal.

    Args:
        write: writes and flushes text on the terminal.
        size: returns (columns, lines) of the terminal.
    """

    def __init__(self, write: Write, size: TerminalSize) -> None:
        self._size = size
        self._region = LiveRegion(write, size)
        self._splitter = BlockSplitter()
        self._code: list[str] = []
        self._language, self._indent = "", 0
        self._wrote = False

    def feed(self, text: str) -> None:
        """Take more of the answer. Control characters are taken out: the text comes from a model."""
        finished = [line for block in self._splitter.feed(without_controls(text)) for line in self._final(block)]
        if finished:
            self._region.commit(finished)
        self._region.show(self._unfinished())

    def finish(self) -> None:
        """Commit what is left."""
        self._region.commit([line for block in self._splitter.finish() for line in self._final(block)])

    def _final(self, block: Block) -> list[str]:
        """Return the styled lines of a finished block."""
        match block:
            case Prose():
                return self._gap(block.blank_before) + self._prose_lines(block)
            case CodeOpen(language, indent, blank_before):
                self._code, self._language, self._indent = [], language, indent
                return self._gap(blank_before) + self._fence_line(f"```{language}")
            case CodeLine(text):
                self._code.append(text)
                return [self._code_line()]
            case CodeClose():
                return self._fence_line("```")

    def _gap(self, blank_before: bool) -> list[str]:
        gap = [""] if blank_before and self._wrote else []
        self._wrote = True
        return gap

    def _unfinished(self) -> list[str]:
        pending = self._splitter.pending
        if pending is None:
            return []
        if isinstance(pending, CodeLine):
            n_columns = max(1, self._size()[0] - self._indent - 1)
            return [" " * self._indent + set_cell_size(pending.text, min(n_columns, cell_len(pending.text)))]
        gap = [""] if pending.blank_before and self._wrote else []
        return gap + self._prose_lines(pending)

    def _prose_lines(self, block: Prose) -> list[str]:
        inner: RenderableType = _Prose(block.source)
        if block.indent:
            inner = Padding(inner, (0, 0, 0, min(block.indent, self._size()[0] // 2)))
        return render_lines(inner, self._size()[0])

    def _code_line(self) -> str:
        code = "\n".join(self._code[-_CODE_LINES_READ_BACK:])
        text = Syntax(code, self._language or "text", theme=_CODE_THEME, background_color="default").highlight(code)
        n_before = min(len(self._code), _CODE_LINES_READ_BACK) - 1
        line = text.split("\n", allow_blank=True)[n_before]
        return " " * self._indent + "".join(render_lines(line, cell_len(line.plain) + 2))

    def _fence_line(self, text: str) -> list[str]:
        return [" " * self._indent + line for line in render_lines(Text(text, style="dim"), self._size()[0])]
