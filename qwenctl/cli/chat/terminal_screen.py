"""The chat on a terminal: Markdown as it streams, reasoning folded into one line.

Knows the terminal; nothing of models and commands.
"""

from __future__ import annotations

import os
import sys
import time

from rich.text import Text

from qwenctl.cli.chat.line_input import LineInput
from qwenctl.cli.chat.plain_screen import thought_line
from qwenctl.cli.chat.screen import Meter, Screen
from qwenctl.cli.live_region import LiveRegion
from qwenctl.cli.markdown_stream import MarkdownStream
from qwenctl.cli.output import Output
from qwenctl.cli.terminal_safety import without_controls
from qwenctl.cli.terminal_text import render_lines
from qwenctl.units import format_seconds

_N_REASONING_LINES = 3
_REASONING_KEPT_CHARS = 2000  # of the latest: more than fits into those lines on any screen


class TerminalScreen(Screen):
    """Shows one answer at a time: a status while the model reads and thinks, then the answer."""

    interactive = True
    reads_keys = True

    def __init__(self, output: Output, line_input: LineInput) -> None:
        self._output, self._input = output, line_input
        self._region = LiveRegion(output.write, terminal_size)
        self._markdown: MarkdownStream | None = None
        self._thoughts = ""
        self._n_thought_tokens = 0
        self._started_s = 0.0

    def read_turn(self, meter: Meter) -> str | None:
        """Let the user edit a turn."""
        return self._input.read(str(meter))

    def begin_reply(self) -> None:
        """Show that the prompt is being read, until something else is there to show."""
        self._markdown, self._thoughts, self._n_thought_tokens = None, "", 0
        self._started_s = time.monotonic()
        self._output.write("\n")
        self._region.show(self._dim("reading the prompt…"))

    def reasoning(self, text: str, n_tokens: int) -> None:
        """Show how far thinking has got, and its last lines."""
        if not self._thoughts:
            self._started_s = time.monotonic()
        self._thoughts = (self._thoughts + without_controls(text))[-_REASONING_KEPT_CHARS:]
        self._n_thought_tokens = n_tokens
        seconds = format_seconds(time.monotonic() - self._started_s)
        tail = self._dim(self._thoughts.strip())[-_N_REASONING_LINES:]
        self._region.show([*self._dim(f"thinking… {n_tokens} tokens {seconds}"), *tail])

    def answer(self, text: str) -> None:
        """Show a piece of Markdown."""
        if self._markdown is None:
            self._fold()
            self._markdown = MarkdownStream(self._output.write, terminal_size)
        self._markdown.feed(text)

    def end_reply(self) -> None:
        """Commit what is shown, and leave a blank line."""
        if self._markdown is None:
            self._fold()
        else:
            self._markdown.finish()
        self._output.write("\n")

    def note(self, text: str) -> None:
        """Write dimmed lines."""
        self._output.write("".join(line + "\n" for line in self._dim(without_controls(text))))

    def show(self, text: str) -> None:
        """Write lines as they are; the terminal wraps what is too long."""
        self._output.stream(text + "\n")

    def error(self, message: str, hint: str | None = None) -> None:
        """Write to standard error."""
        self._output.error(message, hint)

    def _fold(self) -> None:
        if not self._n_thought_tokens:
            self._region.clear()
            return
        line = thought_line(time.monotonic() - self._started_s, self._n_thought_tokens)
        self._region.commit([*self._dim(line), ""])

    def _dim(self, text: str) -> list[str]:
        return render_lines(Text(text, style="dim"), terminal_size()[0]) if text else []


def terminal_size() -> tuple[int, int]:
    """Return (columns, lines) of the terminal that standard output is, now: it may have been resized."""
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return 80, 24
    return size.columns or 80, size.lines or 24
