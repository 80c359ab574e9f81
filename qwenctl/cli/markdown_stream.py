"""Show Markdown on a terminal while it streams in.

Finished blocks go to the terminal for good, so they scroll and copy like any text; only the block being written is
redrawn. Code is highlighted line by line and never wrapped by us, so that it can be copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import StringIO
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.cells import cell_len, set_cell_size
from rich.color import ColorSystem
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.markdown import Heading, Markdown, MarkdownElement
from rich.padding import Padding
from rich.segment import Segment
from rich.syntax import Syntax
from rich.text import Text

from qwenctl.cli.live_region import LiveRegion
from qwenctl.cli.markdown_blocks import Block, BlockSplitter, CodeClose, CodeLine, CodeOpen, Prose

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

    def __init__(self, write: Callable[[str], None], size: Callable[[], tuple[int, int]]) -> None:
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
        return self._render(inner)

    def _code_line(self) -> str:
        code = "\n".join(self._code[-_CODE_LINES_READ_BACK:])
        text = Syntax(code, self._language or "text", theme=_CODE_THEME, background_color="default").highlight(code)
        n_before = min(len(self._code), _CODE_LINES_READ_BACK) - 1
        line = text.split("\n", allow_blank=True)[n_before]
        return " " * self._indent + "".join(self._render(line, width=cell_len(line.plain) + 1))

    def _fence_line(self, text: str) -> list[str]:
        return [" " * self._indent + line for line in self._render(Text(text, style="dim"))]

    def _render(self, renderable: RenderableType, width: int | None = None) -> list[str]:
        """Return `renderable` as styled lines without blanks at their ends, and no blank lines around them.

        The last column stays free: a full line leaves the cursor in limbo.
        """
        console = Console(
            file=StringIO(),
            force_terminal=True,
            color_system="standard",
            width=width or max(20, self._size()[0] - 1),
            emoji=False,
        )
        lines = [_styled(segments) for segments in console.render_lines(renderable, pad=False)]
        while lines and not lines[-1]:
            lines.pop()
        first = next((index for index, line in enumerate(lines) if line), 0)
        return lines[first:]


def _styled(segments: Sequence[Segment]) -> str:
    """Return one line with its styles as escape sequences, without the blanks that rich fills it up with."""
    kept = list(segments)
    while kept and not kept[-1].text.strip():
        kept.pop()
    if kept:
        kept[-1] = Segment(kept[-1].text.rstrip(), kept[-1].style)
    return "".join(style.render(text, color_system=ColorSystem.STANDARD) if style else text for text, style, _ in kept)


def without_controls(text: str) -> str:
    """Return `text` without the control characters that could move the cursor or reprogram the terminal."""
    if text.isprintable():
        return text
    return "".join(char for char in text.expandtabs(4) if char == "\n" or not _is_control(ord(char)))


def _is_control(code: int) -> bool:
    return code < 0x20 or 0x7F <= code < 0xA0
