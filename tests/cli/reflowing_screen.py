"""A terminal that wraps its lines anew when its width changes, as most do and pyte does not. Narrow characters only."""

from __future__ import annotations

import re

_PART = re.compile(r"\x1b\[\??(?P<number>[\d;]*)(?P<command>[A-Za-z])|(?P<char>.)", re.DOTALL)


class ReflowingScreen:
    """Rows of characters, those scrolled off included. A row that the terminal has wrapped goes on in the next one."""

    def __init__(self, columns: int, n_rows: int) -> None:
        self.columns, self.n_rows = columns, n_rows
        self._rows = [""]
        self._wraps = [False]  # whether the row goes on in the next one
        self._row = self._column = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.columns, self.n_rows

    @property
    def lines(self) -> list[str]:
        """The lines as they were written, wrapped or not."""
        lines = [""]
        for row, wraps in zip(self._rows, self._wraps, strict=True):
            lines[-1] += row
            if not wraps:
                lines.append("")
        return [line.rstrip() for line in lines]

    def write(self, text: str) -> None:
        for part in _PART.finditer(text):
            if part["char"]:
                self._put(part["char"])
            else:
                self._obey(part["command"], int(part["number"] or 1) if part["command"] == "A" else 0)

    def resize(self, columns: int) -> None:
        before = sum(len(row) for row in self._rows[: self._row]) + self._column
        n_ended = self._wraps[: self._row].count(False)
        lines = self.lines[:-1] if not self._wraps[-1] else self.lines
        offset = before - sum(len(row) for row in self._rows[: self._start_of_line()])
        self.columns, self._rows, self._wraps = columns, [], []
        for index, line in enumerate(lines):
            pieces = [line[at : at + columns] for at in range(0, len(line), columns)] or [""]
            if index == n_ended:
                self._row = len(self._rows) + min(offset // columns, len(pieces) - 1)
                self._column = offset - columns * (self._row - len(self._rows))
            self._rows += pieces
            self._wraps += [True] * (len(pieces) - 1) + [False]

    def _start_of_line(self) -> int:
        row = self._row
        while row and self._wraps[row - 1]:
            row -= 1
        return row

    def _put(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            self._down()
            self._column = 0  # the driver of the terminal makes \r\n of it
        else:
            if self._column == self.columns:
                self._wraps[self._row] = True
                self._down()
                self._column = 0
            row = self._rows[self._row].ljust(self._column)
            self._rows[self._row] = row[: self._column] + char + row[self._column + 1 :]
            self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append("")
            self._wraps.append(False)

    def _obey(self, command: str, number: int) -> None:
        if command == "A":
            self._row = max(self._row - number, len(self._rows) - self.n_rows, 0)
        elif command in "JK":
            self._rows[self._row] = self._rows[self._row][: self._column]
            self._wraps[self._row] = False
            if command == "J":
                del self._rows[self._row + 1 :], self._wraps[self._row + 1 :]
