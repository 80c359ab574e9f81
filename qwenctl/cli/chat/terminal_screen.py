"""The chat on a terminal: Markdown as it streams, reasoning folded into one line.

Knows the terminal; nothing of models and commands.
"""

from __future__ import annotations

import os
import re
import sys
import time
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from prompt_toolkit.keys import Keys
from rich.table import Table
from rich.text import Text

from qwenctl.cli.chat.key_mode import KeyMode
from qwenctl.cli.chat.line_input import SHOW_REASONING_COMMAND, LineInput
from qwenctl.cli.chat.screen import Meter, Screen
from qwenctl.cli.chat.thinking_view import ThinkingView
from qwenctl.cli.interrupt import raise_on_interrupt
from qwenctl.cli.live_region import LiveRegion
from qwenctl.cli.markdown_stream import MarkdownStream
from qwenctl.cli.output import Output, cell_width
from qwenctl.cli.prompt_clock import PromptClock
from qwenctl.cli.terminal_safety import without_controls
from qwenctl.cli.terminal_text import render_lines
from qwenctl.cli.theme import DARK, Theme
from qwenctl.core import PromptProgress

_TABLE_LINE = re.compile(r"(\S.*?  +)(\S.*)")
SHOW_REASONING, ANSWER_NOW = Keys.ControlO, Keys.ControlA
_PASTES_MARKED, _PASTES_UNMARKED = "\x1b[?2004h", "\x1b[?2004l"  # bracketed paste


class TerminalScreen(Screen):
    """Shows one answer at a time: a status while the model reads and thinks, then the answer."""

    interactive = True

    def __init__(self, output: Output, line_input: LineInput, theme: Theme = DARK) -> None:
        self._output, self._input, self._theme = output, line_input, theme
        self._keys = KeyMode(as_keys=True)
        self._region = LiveRegion(output.write, terminal_size)
        self._markdown: MarkdownStream | None = None
        self._thinking: ThinkingView | None = None
        self._prompt = PromptClock()
        self._shows_reasoning_after = False
        self._needs_gap = False  # above the next input line

    def __enter__(self) -> Self:
        self._keys.__enter__()
        self._input.keep_typed_lines()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keys.__exit__(kind, error, trace)

    def read_turn(self, meter: Meter) -> str | None:
        """Let the user edit a turn."""
        if self._shows_reasoning_after:
            self._shows_reasoning_after = False
            return SHOW_REASONING_COMMAND
        if self._needs_gap:
            self._output.write("\n")
        self._needs_gap = False
        return self._input.read(meter.fitted(terminal_size()[0] - 1), meter.level)

    def begin_reply(self) -> None:
        """Show that the prompt is being read, until something else is there to show."""
        self._markdown = self._thinking = None
        self._output.write(_PASTES_MARKED + "\n")
        self._prompt = PromptClock()
        self._region.show(self._dim(self._prompt.line))

    def prompt_progress(self, progress: PromptProgress) -> None:
        """Show how much of the prompt has been read, and how long the rest will take."""
        self._prompt.take(progress)
        self._region.show(self._dim(self._prompt.line))

    def reasoning(self, text: str, n_tokens: int) -> None:
        """Show how far thinking has got, and its last lines."""
        if self._thinking is None:
            self._thinking = ThinkingView(self._region, self._dim, lambda: terminal_size()[0], time.monotonic)
        self._thinking.feed(text, n_tokens)

    def answer(self, text: str) -> None:
        """Show a piece of Markdown."""
        if self._markdown is None:
            self._fold()
            self._markdown = MarkdownStream(self._output.write, terminal_size, self._theme)
        self._markdown.feed(text)

    def wants_answer(self) -> bool:
        """Do what the keys pressed since the last call ask for; the rest of them wait for the next input line."""
        thinks = self._thinking is not None and self._markdown is None
        pressed = self._input.pressed({SHOW_REASONING, ANSWER_NOW} if thinks else {SHOW_REASONING})
        for key in pressed:
            if key == SHOW_REASONING and self._thinking is not None:
                if thinks:
                    self._thinking.toggle()
                else:
                    self._shows_reasoning_after = not self._thinking.whole_text_shown
        return ANSWER_NOW in pressed

    def end_reply(self) -> None:
        """Commit what is shown, and leave a blank line."""
        if self._markdown is None:
            self._fold()
        else:
            self._markdown.finish()
        self._output.write(_PASTES_UNMARKED + "\n")
        self._needs_gap = False

    def note(self, text: str) -> None:
        """Write dimmed lines."""
        self._needs_gap = True
        self._output.write("".join(line + "\n" for line in self._dim(without_controls(text))))

    def show(self, text: str, *, dim: bool = False) -> None:
        """Write lines, wrapped between words; what wraps in the second column of a table stays in there."""
        self._needs_gap = True
        for line in without_controls(text).split("\n"):
            self._output.write("".join(part + "\n" for part in self._wrapped(line, "dim" if dim else "") or [""]))

    def copy(self, text: str) -> bool:
        """Send it to the terminal's own clipboard, which also works over ssh."""
        self._output.write(f"\x1b]52;c;{b64encode(text.encode()).decode()}\x07")  # OSC 52, see ctlseqs of xterm
        return True

    def error(self, message: str, hint: str | None = None) -> None:
        """Write to standard error."""
        self._needs_gap = True
        self._output.error(message, hint)

    def choose(self, text: str, choices: Mapping[str, str]) -> str | None:
        """Wait for the key of a choice; other keys do nothing."""
        self._input.pressed()  # typed before the question: for the next input line
        keys = Text("   ").join(Text.assemble((f"[{key}]", "bold"), f" {meaning}") for key, meaning in choices.items())
        key = None
        with suppress(KeyboardInterrupt), raise_on_interrupt():
            self.show(text)
            self._region.show(render_lines(keys, terminal_size()[0], self._theme))
            key = self._input.read_key(choices)
        self._region.commit(self._dim(f"{key} {choices[key]}" if key else "no answer"))
        return key

    def _fold(self) -> None:
        if self._thinking is None:
            self._region.clear()
        else:
            self._thinking.fold()

    def _wrapped(self, line: str, style: str) -> list[str]:
        columns = terminal_size()[0]
        table = _TABLE_LINE.match(line)
        if table is None or cell_width(line) < columns or len(table[1]) > columns // 2:
            return render_lines(Text(line, style=style), columns, self._theme)
        grid = Table.grid()
        grid.add_column(width=len(table[1]))
        grid.add_row(Text(table[1], style=style), Text(table[2], style=style))
        return render_lines(grid, columns, self._theme)

    def _dim(self, text: str) -> list[str]:
        return render_lines(Text(text, style="dim"), terminal_size()[0], self._theme) if text else []


def terminal_size() -> tuple[int, int]:
    """Return (columns, lines) of the terminal that standard output is, now: it may have been resized."""
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return 80, 24
    return size.columns or 80, size.lines or 24
