"""One frame to a child at its pipes and one back, within a time limit.

    frame    = length (4 bytes, big endian) + body

Knows nothing of what is in a frame. Where pipes can be waited for, no thread looks at the clock: starting one takes
longer than most answers, ten times as long on a busy machine.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import IO, Self, cast


def as_frame(body: bytes) -> bytes:
    """Return `body` as a frame."""
    return struct.pack(">I", len(body)) + body


def exchange(child: subprocess.Popen[bytes], frame: bytes, time_s: float) -> bytes | None:
    """Send `frame` and return the body of the answer; None when the child ends first.

    Args:
        child: with unbuffered pipes that went through `make_ready`.

    Raises:
        TimeoutError: the child is late. It may live, but its pipes cannot be used again.
        OSError: it does not read.
    """
    to_child, from_child = cast("IO[bytes]", child.stdin), cast("IO[bytes]", child.stdout)
    with _Deadline(child, time_s) as deadline:
        data = memoryview(frame)
        while data:
            deadline.wait_to_write(to_child)
            data = data[to_child.write(data) or 0 :]
        head = _read(from_child, 4, deadline)
        return _read(from_child, struct.unpack(">I", head)[0], deadline) if head else None


def _read(pipe: IO[bytes], n_bytes: int, deadline: _Deadline) -> bytes | None:
    data = bytearray()
    while len(data) < n_bytes:
        deadline.wait_to_read(pipe)
        piece = pipe.read(min(n_bytes - len(data), 1 << 20))
        if piece == b"":
            return None
        data += piece or b""  # None: nothing there after all
    return bytes(data)


if sys.platform != "win32":
    import select

    def make_ready(child: subprocess.Popen[bytes]) -> None:
        """Let nothing but `exchange` wait for the pipes of `child`."""
        for pipe in (child.stdin, child.stdout):
            os.set_blocking(cast("IO[bytes]", pipe).fileno(), False)

    class _Deadline:
        """Waits for pipes, but not for longer than there is time."""

        def __init__(self, _child: subprocess.Popen[bytes], time_s: float) -> None:
            self._end_s = time.monotonic() + time_s

        def wait_to_write(self, pipe: IO[bytes]) -> None:
            self._wait(pipe, select.POLLOUT)

        def wait_to_read(self, pipe: IO[bytes]) -> None:
            self._wait(pipe, select.POLLIN)

        def _wait(self, pipe: IO[bytes], event: int) -> None:
            poll = select.poll()
            poll.register(pipe, event)
            if not poll.poll(max(0.0, self._end_s - time.monotonic()) * 1000):
                raise TimeoutError

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            return

else:

    def make_ready(child: subprocess.Popen[bytes]) -> None:
        """Nothing to do: reading and writing wait."""
        del child

    class _Deadline:
        """Kills the child in time, which ends whatever is waited for."""

        def __init__(self, child: subprocess.Popen[bytes], time_s: float) -> None:
            self._expired = False
            self._child = child
            self._timer = threading.Timer(time_s, self._expire)
            self._timer.daemon = True

        def wait_to_write(self, pipe: IO[bytes]) -> None:
            del pipe

        def wait_to_read(self, pipe: IO[bytes]) -> None:
            del pipe

        def _expire(self) -> None:
            self._expired = True
            self._child.kill()

        def __enter__(self) -> Self:
            self._timer.start()
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            self._timer.cancel()
            self._timer.join()
            if self._expired and (kind is None or issubclass(kind, OSError)):
                raise TimeoutError
