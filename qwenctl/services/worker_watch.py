"""Notices within ten seconds that a worker is lost or hangs, while ggml waits for it without a limit.

What can be seen from a client:

    killed, or its machine shut down     ggml's connection ends, and ggml aborts the engine's process at once
    its machine vanished, a cable        nothing comes: TCP's keep-alive ends connections after 9 s (tcp_keepalive.py)
    stopped (SIGSTOP), frozen, swapping  its system answers for it at TCP's level, so only the program itself can tell

A time limit on ggml's answers would not do: the prompt of a long chat may take a slow worker minutes. So each worker
says "alive" every second on a second connection, from the process in front of the one that computes, which looks at
that one's state (worker_front.py). Silence for five seconds means that it hangs; a busy machine is not that late.
llama.cpp's own rpc-server says nothing while it serves; of it only the first two can be noticed. What no one notices is
a computation that never ends in a process that runs: that is not told from a long one.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from qwenctl.services.rpc_connection import connect
from qwenctl.services.worker_identity import ALIVE, WATCH

SILENCE_LIMIT_S = 5.0


class WorkerWatch:
    """Listens to workers until it is closed.

    Args:
        endpoints: of workers; one thread each.
        on_lost: called once at most, with the endpoint and what is wrong with it, from one of these threads.
        limit_s: of silence.
    """

    def __init__(
        self, endpoints: Sequence[str], on_lost: Callable[[str, str], None], *, limit_s: float = SILENCE_LIMIT_S
    ) -> None:
        self._on_lost, self._limit_s = on_lost, limit_s
        self._over = threading.Lock()  # taken when a worker was lost, or nobody wants to know any more
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._listen, args=(one,), daemon=True) for one in endpoints]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop listening; `on_lost` is not called any more."""
        self._over.acquire(blocking=False)
        for connection in list(self._sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _listen(self, endpoint: str) -> None:
        reason = self._end_of(endpoint)
        if self._over.acquire(blocking=False):
            self._on_lost(endpoint, reason)

    def _end_of(self, endpoint: str) -> str:
        """Listen until there is nothing to hear any more; returns why."""
        try:
            with connect(endpoint, self._limit_s) as connection:
                self._sockets.append(connection)
                connection.sendall(WATCH)
                while connection.recv(len(ALIVE)):
                    pass
        except TimeoutError:
            return f"has not answered for {self._limit_s:g} s: it hangs, or its machine or network does"
        except OSError as error:
            return f"was lost: {error.strerror or error}"
        return "was lost: it ended, or was stopped"
