"""What llama.cpp and ggml have to say: kept in memory, never printed.

llama_log_set takes one callback for the whole process and for all its threads, and ggml's goes with it; importing
llama_cpp sets one that prints to stderr. So there is one `NativeLog` a process, handed out by `native_log`. Lines come
in pieces: a piece without a newline is continued by the next of level CONT.
"""

from __future__ import annotations

import ctypes
import re
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import llama_cpp

ERROR, WARNING, CONTINUED = 4, 3, 5  # enum ggml_log_level, as llama.cpp 0c1e57098 numbers it
_N_LINES = 400

# "llama_model_load: error loading model: …" → the part that says something.
_PREFIX = re.compile(r"^(?:(?:[a-z_0-9~:]+(?:\(\))?|error loading model): +)+")


class LogLine(NamedTuple):
    """One line, without its newline. `number` counts all lines of the process."""

    number: int
    level: int
    text: str


class NativeLog:
    """The last lines that native code logged.

    `forward`, if set, is given every line as it is completed, from whichever thread logged it.
    """

    def __init__(self) -> None:
        self.forward: Callable[[LogLine], None] | None = None
        self._lines: deque[LogLine] = deque(maxlen=_N_LINES)
        self._n_lines = 0
        self._level, self._partial = 0, ""

    @property
    def n_lines(self) -> int:
        """Lines so far: hand it to `errors_since` later."""
        return self._n_lines

    @property
    def lines(self) -> tuple[LogLine, ...]:
        """The lines that are still kept, oldest first."""
        return tuple(self._lines)

    def errors_since(self, n_lines: int = 0) -> list[str]:
        """Return the errors logged after the first `n_lines`, without the names of llama.cpp's functions."""
        return [bare_text(line.text) for line in self.lines if line.level == ERROR and line.number >= n_lines]

    def take(self, level: int, text: str) -> None:
        """Add what a callback was given."""
        if level != CONTINUED:
            self._level = level
        *complete, rest = (self._partial + text).split("\n")
        self._partial = rest
        for line in complete:
            entry = LogLine(self._n_lines, self._level, line)
            self._n_lines += 1
            self._lines.append(entry)
            if self.forward:
                self.forward(entry)


def bare_text(line: str) -> str:
    """Return what a line says, without the names of the functions that said it."""
    return _PREFIX.sub("", line).strip()


@cache
def native_log() -> NativeLog:
    """Return the process's log; the first call takes over from llama_cpp's own callback."""
    log = NativeLog()

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def take(level: int, text: bytes, _user_data: object) -> None:
        log.take(level, text.decode("utf-8", "replace"))

    log.callback = take  # type: ignore[attr-defined]  # kept alive as long as native code may call it
    llama_cpp.llama_log_set(take, ctypes.c_void_p(None))
    return log
