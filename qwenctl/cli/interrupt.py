"""Ctrl-C as a request, not an exception: what is being computed ends in order, and nothing is torn in the middle."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self


class HungUp(SystemExit):
    """The terminal has gone, or the system wants the program to end. Its code is the shell's for that signal."""


class InterruptWatch:
    """While it is open, the first Ctrl-C calls `on_first`; the next one raises KeyboardInterrupt as usual.

    Args:
        on_first: runs between two bytecodes of the main thread, so it may do no more than set a mark.
    """

    def __init__(self, on_first: Callable[[], None] = lambda: None) -> None:
        self.requested = False
        self._on_first = on_first
        self._former_handler: Any = None

    def __enter__(self) -> Self:
        self._former_handler = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._former_handler)

    def raise_if_requested(self) -> None:
        """End the program as Ctrl-C does, at a moment that suits.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        if self.requested:
            raise KeyboardInterrupt

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._on_first()


@contextmanager
def raise_on_interrupt() -> Iterator[None]:
    """Let also the first Ctrl-C raise KeyboardInterrupt, when the `InterruptWatch` around has heard of it.

    For waiting until somebody types: there is nothing to end in order, and Python goes on to wait after a handler that
    only sets a mark (PEP 475).
    """
    former = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if callable(former):
            former(number, frame)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


@contextmanager
def die_on_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the process at once, as the system does by default. For native calls with nothing to lose.

    llama.cpp logs into Python while it loads: a KeyboardInterrupt that is raised in there is printed and lost.
    """
    former = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


@contextmanager
def hang_up_in_order() -> Iterator[None]:
    """Let SIGHUP and SIGTERM raise `HungUp`, so that what is at hand can be saved. Ignored ones stay ignored."""

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        signal.signal(number, signal.SIG_IGN)  # once
        raise HungUp(128 + number)

    wanted = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    mine = [number for number in wanted if signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)
