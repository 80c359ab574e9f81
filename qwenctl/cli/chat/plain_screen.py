"""The chat without a terminal's abilities: for pipes and scripts, TERM=dumb and NO_COLOR. No escape sequences.

Answers alone go to standard output, all else to standard error. On a terminal there is a prompt, and the terminal's own
line editing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress

from qwenctl.cli.chat.key_mode import KeyMode, forget_typed
from qwenctl.cli.chat.screen import Meter, Screen, join_block, thought_line
from qwenctl.cli.interrupt import raise_on_interrupt
from qwenctl.cli.output import Output


class PlainScreen(Screen):
    """Lines in, answers out.

    Args:
        interactive: somebody types: show prompts and the meter.
    """

    def __init__(self, output: Output, *, interactive: bool) -> None:
        self._output, self.interactive = output, interactive
        self._last_char = "\n"
        self._thinking_since_s: float | None = None
        self._n_thought_tokens = 0
        self._keys = KeyMode(as_keys=False)

    def read_turn(self, meter: Meter) -> str | None:
        """Read lines until they make a turn; blank ones are passed over."""
        lines: list[str] = []
        while True:
            if self.interactive:
                self._output.aside("... " if lines else f"[{meter}]\n> ")
            line = sys.stdin.readline()
            if not line:
                return "\n".join(lines) if lines else None
            lines.append(line.rstrip("\r\n"))
            turn = join_block(lines)
            if turn is None:
                continue
            if turn.strip():
                return turn
            lines.clear()

    def begin_reply(self) -> None:
        """Forget the last one; what is typed from now on is not echoed into the answer."""
        self._keys.__enter__()
        self._last_char, self._thinking_since_s, self._n_thought_tokens = "", None, 0

    def reasoning(self, text: str, n_tokens: int) -> None:  # noqa: ARG002
        """Say once that the model thinks; /reasoning shows what."""
        if self._thinking_since_s is None:
            self._thinking_since_s = time.monotonic()
            self._output.note("thinking…")
        self._n_thought_tokens = n_tokens

    def answer(self, text: str) -> None:
        """Write it as it comes."""
        self._fold()
        if text:
            self._output.stream(text)
            self._last_char = text[-1]

    def pause_reply(self) -> None:
        """End the line, if one has begun: answers are lines, and this is not the end of one. What is typed is shown."""
        self._keys.__exit__(None, None, None)
        self._fold()
        if self._last_char not in ("", "\n"):
            self._output.line()

    def end_reply(self) -> None:
        """End the line."""
        self._keys.__exit__(None, None, None)
        self._fold()
        if self._last_char != "\n":
            self._output.line()

    def note(self, text: str) -> None:
        """Write to standard error; `-q` drops it."""
        self._output.note(text)

    def show(self, text: str, *, dim: bool = False) -> None:  # noqa: ARG002
        """Write to standard error, also with `-q`."""
        self._output.report(text)

    def error(self, message: str, hint: str | None = None) -> None:
        """Write to standard error, also with `-q`."""
        self._output.error(message, hint)

    def choose(self, text: str, choices: Mapping[str, str]) -> str | None:
        """Read lines until one of them begins with the key of a choice."""
        if not self.interactive:
            return None
        forget_typed()
        with suppress(KeyboardInterrupt), raise_on_interrupt():
            self._output.report(text)
            while True:
                self._output.aside(" · ".join(f"{key} {meaning}" for key, meaning in choices.items()) + " ? ")
                line = sys.stdin.readline()
                if not line:
                    return None
                if (key := line.strip().lower()[:1]) in choices:
                    return key
        return None

    def _fold(self) -> None:
        if self._thinking_since_s is not None:
            line = thought_line(time.monotonic() - self._thinking_since_s, self._n_thought_tokens)
            self._output.note(f"{line} · /reasoning shows it")
            self._thinking_since_s = None
