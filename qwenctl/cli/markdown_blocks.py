"""Cut streaming Markdown into blocks that will not change any more, and the rest that still may.

Pure: text in, blocks out; knows nothing of terminals. It works line by line and treats a list item as a block of its
own, so that little is ever unfinished. Fences count at any indentation, as models put them inside list items.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})[ \t]*(?P<language>[^\s`{]*)[^`]*")
_MAYBE_FENCE = re.compile(r"[ \t]*(`{1,}|~{1,})[^\s`]*")
_ITEM = re.compile(r"(?P<indent> *)(?:[-*+]|\d{1,9}[.)])(?: |$)")
_HEADING = re.compile(r" {0,3}#{1,6}(?: |$)")
_RULE = re.compile(r" {0,3}(?:(?:\* *){3,}|(?:- *){3,}|(?:_ *){3,})")


@dataclass(frozen=True, slots=True)
class Prose:
    """A finished paragraph, heading, list item, table, quote or rule: Markdown source without its indentation."""

    source: str
    indent: int = 0  # columns that a continued list item stands in
    blank_before: bool = False

    @property
    def is_table(self) -> bool:
        """Whether it may be a table: its columns grow with every row."""
        return "|" in self.source.partition("\n")[0]


@dataclass(frozen=True, slots=True)
class CodeOpen:
    """The first line of a fenced block."""

    language: str
    indent: int = 0
    blank_before: bool = False


@dataclass(frozen=True, slots=True)
class CodeLine:
    """One finished line of code, without the fence's indentation."""

    text: str


@dataclass(frozen=True, slots=True)
class CodeClose:
    """The last line of a fenced block."""


Block = Prose | CodeOpen | CodeLine | CodeClose


class BlockSplitter:
    """Takes a stream of Markdown apart. `pending` is the block that the next text may still change."""

    def __init__(self) -> None:
        self._partial = ""  # text after the last line break
        self._lines: list[str] = []  # finished lines of the unfinished prose block
        self._blank_before = False
        self._block_blank = False  # blank_before of the unfinished block
        self._list_indent: int | None = None  # where the text of the current list's items stands
        self._fence: str | None = None
        self._fence_indent = 0

    def feed(self, text: str) -> list[Block]:
        """Take more text; return the blocks that it finished."""
        *lines, self._partial = (self._partial + text).split("\n")
        return [block for line in lines for block in self._take_line(line)]

    def finish(self) -> list[Block]:
        """End the text; return what was left. An open fence is closed."""
        blocks = self._take_line(self._partial) if self._partial else []
        self._partial = ""
        blocks += self._flush()
        if self._fence is not None:
            self._fence = None
            blocks.append(CodeClose())
        return blocks

    @property
    def pending(self) -> Prose | CodeLine | None:
        """The unfinished block as it stands, for showing; None if there is nothing to show yet."""
        if self._fence is not None:
            return CodeLine(self._without_indent(self._partial)) if self._partial else None
        partial = "" if _MAYBE_FENCE.fullmatch(self._partial) else self._partial
        lines = [*self._lines, partial] if partial.strip() else self._lines
        if not lines:
            return None
        return self._prose(lines, self._block_blank if self._lines else self._blank_before)

    def _take_line(self, line: str) -> list[Block]:
        line = line.rstrip("\r")
        if self._fence is not None:
            return self._take_code_line(line)
        if not line.strip():
            blocks = self._flush()
            self._blank_before = True
            return blocks
        if fence := _FENCE.fullmatch(line):
            return [*self._flush(), self._open_fence(fence)]
        blocks = self._flush() if self._starts_block(line) else []
        if not self._lines:
            self._block_blank, self._blank_before = self._blank_before, False
        self._lines.append(line)
        if _HEADING.match(line) or (len(self._lines) == 1 and _RULE.fullmatch(line)):
            blocks += self._flush()
        return blocks

    def _starts_block(self, line: str) -> bool:
        """Tell whether a line that is not blank ends the block before it."""
        if _HEADING.match(line):
            return True
        item = _ITEM.match(line)
        if item is None or not self._lines:
            return False
        first = _ITEM.match(self._lines[0])  # an item nested deeper stays with its parent
        return first is None or len(item["indent"]) <= len(first["indent"])

    def _open_fence(self, fence: re.Match[str]) -> CodeOpen:
        self._fence, self._fence_indent = fence["mark"], len(fence["indent"].expandtabs(4))
        block = CodeOpen(fence["language"], self._fence_indent, self._blank_before)
        self._blank_before = False
        return block

    def _take_code_line(self, line: str) -> list[Block]:
        bare = line.strip()
        fence = self._fence or ""
        if len(bare) >= len(fence) and bare == fence[0] * len(bare):
            self._fence = None
            return [CodeClose()]
        return [CodeLine(self._without_indent(line))]

    def _without_indent(self, line: str) -> str:
        n_blanks = len(line) - len(line.lstrip(" "))
        return line[min(n_blanks, self._fence_indent) :]

    def _flush(self) -> list[Block]:
        if not self._lines:
            return []
        block = self._prose(self._lines, self._block_blank)
        self._lines = []
        item = _ITEM.match(block.source)
        if item:
            self._list_indent = block.indent + item.end()
        elif block.indent == 0:
            self._list_indent = None
        return [block]

    def _prose(self, lines: list[str], blank_before: bool) -> Prose:
        """Take the indentation off what continues a list item: Markdown would take four blanks for code."""
        indent = len(lines[0]) - len(lines[0].lstrip(" "))
        if self._list_indent is None and not _ITEM.match(lines[0]):
            indent = 0
        source = "\n".join(line[min(indent, len(line) - len(line.lstrip(" "))) :] for line in lines)
        return Prose(source, indent, blank_before)
