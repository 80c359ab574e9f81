"""The fenced code blocks of a Markdown text: to be copied, saved or piped on, exactly as they were written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qwenctl.cli.markdown_blocks import Block, BlockSplitter, CodeClose, CodeLine, CodeOpen


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """One block, without its fences and their indentation."""

    language: str  # "": the text names none
    text: str  # each line ends with a line break


def code_blocks(text: str) -> list[CodeBlock]:
    """Return the blocks of `text`, in order. One that is still open at the end counts."""
    splitter = BlockSplitter()
    return _gathered([*splitter.feed(text), *splitter.finish()])


class FirstCodeBlock:
    """The first block of a text that streams in, line by line; what comes after it does not matter.

    `begun` says whether there was any.
    """

    def __init__(self) -> None:
        self._splitter = BlockSplitter()
        self.begun = self._ended = False

    def feed(self, text: str) -> str:
        """Return what `text` brings of the block: whole lines."""
        return self._lines(self._splitter.feed(text))

    def finish(self) -> str:
        """Return what is left of the block at the end of the text."""
        return self._lines(self._splitter.finish())

    def _lines(self, blocks: Iterable[Block]) -> str:
        lines = []
        for block in blocks:
            if isinstance(block, CodeOpen):
                self.begun = True
            elif isinstance(block, CodeClose):
                self._ended = True
            elif isinstance(block, CodeLine) and not self._ended:
                lines.append(block.text + "\n")
        return "".join(lines)


def _gathered(blocks: Iterable[Block]) -> list[CodeBlock]:
    found: list[CodeBlock] = []
    language = ""
    lines: list[str] = []
    for block in blocks:
        match block:
            case CodeOpen():
                language, lines = block.language, []
            case CodeLine(line):
                lines.append(line + "\n")
            case CodeClose():
                found.append(CodeBlock(language, "".join(lines)))
            case _:
                pass
    return found
