"""A thread for long native calls, so that the caller can be interrupted while one runs.

Python handles signals between bytecodes of the main thread: a Ctrl-C during a native call of half a minute would be
noticed half a minute later. Waiting for another thread, in contrast, is interruptible.

Whatever computes with several threads must be called from one thread alone, the loading of a model (which rearranges
weights) included. OpenMP keeps a team of workers for every thread that calls it, and as soon as GCC's counts more
threads in all teams than there are cores, its barriers wait in the kernel instead of in a loop: 500 sleeps a token, and
half the speed (17.5 against 10.5 tokens/s on two cores, 12 layers of the shape of Qwen3-30B-A3B).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

# A signal that arrives after Python last looked for one and before it sleeps on a lock does not wake it.
_LOOK_FOR_SIGNALS_S = 0.2


class Ticket:
    """One call and its answer.

    The end is a mark first and a lock second, so that whoever was interrupted at any bytecode, the one after taking the
    lock included, can tell from the mark. An Event would not do: its parts are Python, and a KeyboardInterrupt inside
    one can leave its lock taken, which would stop the thread that is to set it.
    """

    __slots__ = ("begun", "call", "done", "error", "result", "wake")

    def __init__(self, call: Callable[[], object], begun: threading.Lock | None = None) -> None:
        self.call = call
        self.begun = begun  # taken; released when the call begins
        self.result: object = None
        self.error: BaseException | None = None
        self.done = False
        self.wake = _taken_lock()

    def answer(self) -> None:
        """Make the call."""
        if self.begun is not None:
            self.begun.release()
        try:
            self.result = self.call()
        except BaseException as error:  # for the caller
            self.error = error
        self.done = True
        self.wake.release()


class NativeThread:
    """Runs one call at a time.

    Args:
        interrupt: called when waiting is interrupted (KeyboardInterrupt), once or more: makes the running call return
            soon.
    """

    def __init__(self, name: str, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._calls: SimpleQueue[Ticket | None] = SimpleQueue()
        self._put_off: deque[Ticket] = deque()  # of the thread alone
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def run(self, call: Callable[[], T], meanwhile: Callable[[], None] | None = None) -> T:
        """Return what `call` returns or raise what it raises.

        Args:
            call: on the thread. Whoever is on it already calls it himself.
            meanwhile: done here once `call` has begun: what would only delay it before. On the thread, just before it.

        Raises:
            BaseException: the wait was interrupted, or `meanwhile` raised it; `call` has been made to return before
                this is raised.
        """
        if self._is_this:
            self.catch_up()
            if meanwhile is not None:
                meanwhile()
            return call()
        ticket = Ticket(call, _taken_lock() if meanwhile else None)
        try:
            self._calls.put(ticket)  # CPython looks for signals after a call, not before it: an answer will come
            if ticket.begun is not None and meanwhile is not None:
                while not ticket.begun.acquire(timeout=_LOOK_FOR_SIGNALS_S):
                    pass
                meanwhile()
            while not ticket.wake.acquire(timeout=_LOOK_FOR_SIGNALS_S):
                pass
        except BaseException:
            self._abandon(ticket)
            raise
        if ticket.error is not None:
            raise ticket.error
        return ticket.result  # type: ignore[return-value]

    def post(self, call: Callable[[], object]) -> Ticket:
        """Let `call` run after what is running; `settle` waits for it. What it raises stays in the ticket.

        What somebody on the thread posts is put off until `catch_up`, another call or the end of what is running.
        """
        ticket = Ticket(call)
        if self._is_this:
            self._put_off.append(ticket)
        else:
            self._calls.put(ticket)
        return ticket

    def catch_up(self) -> None:
        """On the thread: make the calls that were put off."""
        while self._put_off:
            self._put_off.popleft().answer()

    def settle(self, ticket: Ticket) -> None:
        """Wait until a posted call has returned; an interrupt is raised afterwards, since nothing can hurry that call.

        Raises:
            KeyboardInterrupt: waiting was interrupted.
        """
        if self._is_this:
            self.catch_up()
        interrupt: KeyboardInterrupt | None = None
        while not ticket.done:
            try:
                ticket.wake.acquire(timeout=_LOOK_FOR_SIGNALS_S)
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    @property
    def _is_this(self) -> bool:
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """End the thread."""
        self._calls.put(None)
        self._thread.join()

    def _abandon(self, ticket: Ticket) -> None:
        """Make a call return that nobody wants any more, and wait until it has, however often that is interrupted."""
        while not ticket.done:
            try:
                self._interrupt()
                ticket.wake.acquire(timeout=_LOOK_FOR_SIGNALS_S)
            except KeyboardInterrupt:
                continue

    def _serve(self) -> None:
        while (ticket := self._calls.get()) is not None:
            ticket.answer()
            del ticket  # and what the call holds
            self.catch_up()


def _taken_lock() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock
