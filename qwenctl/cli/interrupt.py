"""Ctrl-C as a request, not an exception: what is being computed ends in order, and nothing is torn in the middle."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]


class InterruptWatch:
    """While it is open, the first Ctrl-C calls `on_first`; the next one raises KeyboardInterrupt as usual.

    A terminal is kept from echoing what is typed meanwhile: it would stand in the middle of the answer.

    Args:
        on_first: runs between two bytecodes of the main thread, so it may do no more than set a mark.
        keep_keys: what is typed meanwhile will be read key by key: Enter is to stay Enter, not to become a line break.
    """

    def __init__(self, on_first: Callable[[], None], *, keep_keys: bool = False) -> None:
        self.requested = False
        self._on_first = on_first
        self._keep_keys = keep_keys
        self._former_handler: Any = None
        self._terminal: list[Any] | None = None

    def __enter__(self) -> Self:
        self._former_handler = signal.signal(signal.SIGINT, self._on_interrupt)
        self._terminal = _echo_off(keep_keys=self._keep_keys)
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
        self._on_first()


def _echo_off(*, keep_keys: bool) -> list[Any] | None:
    """Switch the terminal's echo off; return its former state, None if standard input is no terminal."""
    if termios is None or not sys.stdin.isatty():
        return None
    former = termios.tcgetattr(sys.stdin.fileno())
    silent = list(former)  # input, output, control and local modes, …: see termios(3)
    silent[3] &= ~termios.ECHO
    if keep_keys:
        silent[0] &= ~termios.ICRNL
        silent[3] &= ~termios.ICANON
    termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, silent)
    return former
