"""The sink that every command writes to. Data on standard output, everything else on standard error.

Three modes: human; json (`--json`: exactly one JSON document on standard output); quiet (`-q`: no notes, no progress).
Knows nothing of models. Escape sequences are written to terminals only, and never with NO_COLOR or TERM=dumb.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from errno import EIO
from typing import Any, TextIO

from qwenctl.cli.errors import OutputClosed, error_lines, one_line
from qwenctl.cli.progress import LineProgress, NoProgress, Progress, RichProgress
from qwenctl.cli.terminal_safety import without_controls
from qwenctl.errors import QwenctlError

_DIM, _BOLD, _YELLOW, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[33m", "\x1b[0m"


class Output:
    """Where a command's words go.

    Args:
        json_mode: data is written by `data` only, as one JSON document.
        quiet: notes and progress are dropped; warnings stay.
        plain: no escape sequences, whatever the streams are.
    """

    def __init__(
        self,
        *,
        json_mode: bool = False,
        quiet: bool = False,
        plain: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.json_mode = json_mode
        self.quiet = quiet
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr
        self._was_terminal = self._stdout.isatty()
        self.styles_stdout = not plain and self._was_terminal
        self.styles_stderr = not plain and self._stderr.isatty()
        self._has_status = False

    # Data: standard output.

    def write(self, text: str) -> None:
        """Write `text` as it is and flush it: one piece of a streaming answer.

        Raises:
            OutputClosed: the reader has gone.
            QwenctlError: the text could not be written: a full disk, for one.
        """
        try:
            self._stdout.write(text)
            self._stdout.flush()
        except BrokenPipeError:
            raise OutputClosed from None
        except OSError as error:
            if error.errno == EIO and self._was_terminal:  # which has hung up
                raise OutputClosed from None
            hint = "make room there, or send it elsewhere"
            raise QwenctlError(f"cannot write to standard output: {error.strerror}", hint) from error

    def stream(self, text: str) -> None:
        """Write a piece of text that a model made. A terminal is spared its control characters."""
        self.write(without_controls(text) if self._stdout.isatty() else text)

    def line(self, text: str = "") -> None:
        """Write one line."""
        self.write(text + "\n")

    def data(self, value: Any) -> None:
        """Write `value` as the JSON document of `--json`. Text stays readable; what is no Unicode is escaped."""
        text = json.dumps(value, ensure_ascii=False, indent=2)
        is_unicode = not any("\ud800" <= char <= "\udfff" for char in text)
        self.line(text if is_unicode else json.dumps(value, indent=2))

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        right: Sequence[int] = (),
        cuts_last: bool = False,
    ) -> None:
        """Write aligned columns.

        Args:
            header: names of the columns.
            rows: a cell for each column.
            right: indexes of columns that are flush right, as numbers are read.
            cuts_last: on a terminal, the last column is cut where the line would be too long for it.
        """
        cells = [[one_line(str(cell)) for cell in row] for row in (header, *rows)]
        widths = [max(cell_width(row[column]) for row in cells) for column in range(len(header))]
        for index, row in enumerate(cells):
            padded = [
                " " * (width - cell_width(cell)) + cell if column in right else cell + " " * (width - cell_width(cell))
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            text = "  ".join(padded).rstrip()
            if cuts_last and (columns := self._terminal_columns()):
                text = cut_to_cells(text, columns)
            self.line(f"{_BOLD}{text}{_RESET}" if index == 0 and self.styles_stdout else text)

    def fields(self, pairs: Sequence[tuple[str, object]]) -> None:
        """Write one `name  value` line for each pair, values aligned."""
        width = max((cell_width(name) for name, _ in pairs), default=0)
        for name, value in pairs:
            label = name + " " * (width - cell_width(name))
            self.line(f"{_DIM}{label}{_RESET}  {value}" if self.styles_stdout else f"{label}  {value}".rstrip())

    # All else: standard error.

    def note(self, text: str) -> None:
        """Write a line that a person may want to know; `-q` drops it."""
        if not self.quiet:
            self._write_stderr(f"{_DIM}{text}{_RESET}\n" if self.styles_stderr else f"{text}\n")

    def warning(self, text: str) -> None:
        """Write a line that a person must know, also with `-q`."""
        self._write_stderr(
            (f"{_YELLOW}warning:{_RESET} " if self.styles_stderr else "warning: ") + one_line(text) + "\n"
        )

    def error(self, message: str, hint: str | None = None) -> None:
        """Write what went wrong with one of several things; errors that end the program are raised instead."""
        self._write_stderr(error_lines(message, hint, styled=self.styles_stderr))

    def report(self, text: str) -> None:
        """Write a line that was asked for, such as a line of `--stats`, also with `-q`."""
        self._write_stderr((without_controls(text) if self._stderr.isatty() else text) + "\n")

    def aside(self, text: str) -> None:
        """Write a piece of streaming text beside the data, dimmed on a terminal: what a model thinks."""
        text = without_controls(text) if self._stderr.isatty() else text
        self._write_stderr(f"{_DIM}{text}{_RESET}" if self.styles_stderr else text)

    @property
    def shows_status(self) -> bool:
        """Whether `status` shows anything: on a terminal, without `-q`."""
        return self.styles_stderr and not self.quiet

    def status(self, text: str) -> None:
        """Show a short line in place of the last one; "" takes it away. Nothing must be written in between."""
        if self.shows_status and (text or self._has_status):
            self._has_status = bool(text)
            self._write_stderr(f"\r{_DIM}{text}{_RESET}\x1b[K" if text else "\r\x1b[K")

    def progress(
        self,
        label: str,
        total: int,
        *,
        format_amount: Callable[[float], str] = "{:.0f}".format,
        tells_time: bool = True,
    ) -> Progress:
        """Return a progress bar, as a context manager: a live bar on a terminal, else a line every few seconds.

        Args:
            label: what goes on, in one or two words.
            total: the amount at the end, in any unit.
            format_amount: prints an amount; `units.format_bytes` for bytes.
            tells_time: whether the time left is reckoned from the amounts; else it is the remark's to tell.
        """
        if self.quiet:
            return NoProgress()
        if self.styles_stderr:
            return RichProgress(self._stderr, label, total, format_amount, tells_time=tells_time)
        return LineProgress(self._write_stderr, label, total, format_amount, tells_time=tells_time)

    def _terminal_columns(self) -> int | None:
        """Return how wide the terminal is that data goes to; None: it goes elsewhere."""
        try:
            return os.get_terminal_size(self._stdout.fileno()).columns or None
        except (OSError, ValueError):
            return None

    def _write_stderr(self, text: str) -> None:
        try:
            self._stderr.write(text)
            self._stderr.flush()
        except OSError:  # nobody is listening; the data still matters
            self.quiet = True


def cell_width(text: str) -> int:
    """Return the terminal cells that `text` fills: two for CJK and most emoji."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415  rich costs 30 ms, which ASCII tables need not pay

    return cell_len(text)


def cut_to_cells(text: str, n_cells: int) -> str:
    """Return `text`, cut so that it fills at most `n_cells` of a line, the last one with an ellipsis."""
    if cell_width(text) <= n_cells:
        return text
    while text and cell_width(text) >= n_cells:
        text = text[:-1]
    return text.rstrip() + "…"
