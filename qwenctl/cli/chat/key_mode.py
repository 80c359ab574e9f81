"""How the terminal hands over what is typed: silently while an answer runs, and key by key for a line editor.

Nothing typed is lost: what nobody has read waits for the next input line.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any, Self

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]


class KeyMode:
    """While it is open, the terminal echoes nothing. Does nothing where standard input is no terminal.

    Ctrl-Z hands the terminal back as it was, and takes it again when the program goes on.

    Args:
        as_keys: what is typed is read key by key: Enter stays Enter, and Ctrl-D a key. Ctrl-C and Ctrl-Z still work.
            Else the terminal goes on to gather lines.
    """

    def __init__(self, *, as_keys: bool) -> None:
        self._as_keys = as_keys
        self._former: list[Any] | None = None
        self._handles_suspend = False

    def __enter__(self) -> Self:
        if termios is not None and sys.stdin.isatty():
            self._former = termios.tcgetattr(sys.stdin.fileno())
            self._hide()
            if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
                self._handles_suspend = True
                signal.signal(signal.SIGTSTP, self._on_suspend)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handles_suspend:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            self._handles_suspend = False
        self._restore()
        self._former = None

    def _hide(self) -> None:
        if self._former is None:
            return
        mode = list(self._former)  # input, output, control and local modes, …: see termios(3)
        mode[3] &= ~termios.ECHO
        if self._as_keys:
            mode[0] &= ~(termios.ICRNL | termios.INLCR | termios.IXON)
            mode[3] &= ~(termios.ICANON | termios.IEXTEN)  # IEXTEN: macOS drops Ctrl-O with it
            mode[3] |= termios.NOFLSH  # Ctrl-C shall not take away what was typed ahead
            mode[6] = list(mode[6])
            mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        self._set(mode)

    def _restore(self) -> None:
        if self._former is not None:
            self._set(self._former)

    @staticmethod
    def _set(mode: list[Any]) -> None:
        try:
            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, mode)
        except termios.error:  # the terminal has gone
            return

    def _on_suspend(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._restore()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # stops here
        signal.signal(signal.SIGTSTP, self._on_suspend)
        self._hide()


def forget_typed() -> None:
    """Drop what was typed and not read: it was not meant for the question that comes now."""
    if termios is not None and sys.stdin.isatty():
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
