"""How a block of Markdown looks on a terminal: rich's way, but for what rich drops or boxes in.

Knows nothing of streams and code blocks.
"""

from __future__ import annotations

from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import (
    Heading,
    ListItem,
    Markdown,
    MarkdownElement,
    TableBodyElement,
    TableElement,
    TableHeaderElement,
    TableRowElement,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

# Raw HTML and link definitions are shown as they were written: rich would drop them, and with them what was said.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"]).disable("reference")
_NARROWEST_COLUMN = 4  # with the blanks around it


class _LeftHeading(Heading):
    """A heading flush left, without the box that rich draws around the first level."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _NumberedItem(ListItem):
    """An item whose number has its full stop."""

    def render_number(self, console: Console, options: ConsoleOptions, number: int, last_number: int) -> RenderResult:
        width = len(str(last_number)) + 2
        inner = console.render_lines(
            self.elements, options.update(width=options.max_width - width - 1), style=self.style
        )
        first = Segment(f" {number}.".rjust(width) + " ", console.get_style("markdown.item.number"))
        for index, line in enumerate(inner):
            yield Segment(" " * (width + 1)) if index else first
            yield from line
            yield Segment.line()


class _WholeTable(TableElement):
    """A table whose cells are wrapped where rich would cut them; as plain lines if it is too narrow even for that."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            if not isinstance(table, Table):
                yield table
            elif len(table.columns) * _NARROWEST_COLUMN > options.max_width:
                rows = [row for part in (self.header, self.body) if part for row in _rows_of(part)]
                yield Text("\n").join(Text(" | ").join(cell.content for cell in row.cells) for row in rows)
            else:
                for column in table.columns:
                    column.overflow = "fold"
                yield table


def _rows_of(part: TableHeaderElement | TableBodyElement) -> list[TableRowElement]:
    if isinstance(part, TableBodyElement):
        return part.rows
    return [part.row] if part.row else []


class MarkdownProse(Markdown):
    """A paragraph, heading, list item, table, quote or rule."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "list_item_open": _NumberedItem,
        "heading_open": _LeftHeading,
        "table_open": _WholeTable,
    }

    def __init__(self, source: str) -> None:
        super().__init__(source, hyperlinks=False)
        self.parsed = _PARSER.parse(source)
