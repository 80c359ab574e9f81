"""Ctrl-C as a question, not an exception: asked between two steps, so that nothing is torn in the middle of one."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType
from typing import Any, Self

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]


class InterruptWatch:
    """While it is open, the first Ctrl-C sets `requested`; a second one raises KeyboardInterrupt as usual.

    A terminal is kept from echoing what is typed meanwhile: it would stand in the middle of the answer.
    """

    def __init__(self) -> None:
        self.requested = False
        self._former_handler: Any = None
        self._terminal: list[Any] | None = None

    def __enter__(self) -> Self:
        self._former_handler = signal.signal(signal.SIGINT, self._on_interrupt)
        self._terminal = _echo_off()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._former_handler)
        if self._terminal is not None:
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._terminal)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def _echo_off() -> list[Any] | None:
    """Switch the terminal's echo off; return its former state, None if standard input is no terminal."""
    if termios is None or not sys.stdin.isatty():
        return None
    former = termios.tcgetattr(sys.stdin.fileno())
    silent = list(former)
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, silent)
    return former
