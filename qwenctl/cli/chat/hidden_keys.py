"""What is typed while an answer runs: not echoed into the middle of it, but kept for the next input line."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]


class HiddenKeys:
    """While it is open, the terminal echoes nothing. Does nothing where standard input is no terminal.

    Args:
        as_keys: what is typed will be read key by key: Enter is to stay Enter, not to become a line break.
    """

    def __init__(self, *, as_keys: bool) -> None:
        self._as_keys = as_keys
        self._former: list[Any] | None = None

    def __enter__(self) -> Self:
        if termios is not None and sys.stdin.isatty():
            self._former = termios.tcgetattr(sys.stdin.fileno())
            silent = list(self._former)  # input, output, control and local modes, …: see termios(3)
            silent[3] &= ~termios.ECHO
            if self._as_keys:
                silent[0] &= ~termios.ICRNL
                silent[3] &= ~termios.ICANON
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, silent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._former is not None:
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._former)
