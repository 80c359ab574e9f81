"""TCP's own signs of life: a connection to a machine that vanished without a word ends within ten seconds.

The system's defaults are two hours without, and a quarter of an hour with unanswered data under way. What the other
machine's program does cannot be seen so: a stopped process has a system that answers for it.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

_IDLE_S, _INTERVAL_S, _COUNT = 3, 2, 3
_OPTIONS = (
    ("TCP_KEEPIDLE", _IDLE_S),
    ("TCP_KEEPINTVL", _INTERVAL_S),
    ("TCP_KEEPCNT", _COUNT),
    ("TCP_USER_TIMEOUT", 1000 * (_IDLE_S + _INTERVAL_S * _COUNT)),  # of data that nobody acknowledges
)


def keep_alive(connection: socket.socket) -> None:
    """Let a connection end when the other machine says nothing for nine seconds; where the system knows how."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _OPTIONS:
            if number := getattr(socket, name, None):
                connection.setsockopt(socket.IPPROTO_TCP, number, value)


def keep_all_alive(folder: Path = Path("/proc/self/fd")) -> None:
    """Do so with every TCP connection of this process: those that ggml opened, whose descriptors it does not tell."""
    try:
        numbers = [int(entry.name) for entry in folder.iterdir()]
    except OSError:
        return
    for number in numbers:
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as connection:
                if connection.family == socket.AF_INET and connection.type == socket.SOCK_STREAM:
                    keep_alive(connection)
