"""A terminal for tests: a program on a pseudo-terminal, what it writes drawn by pyte on a screen that can be read.

Everything waits for something to appear; nothing sleeps for a fixed time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

import pyte

DEADLINE_S = 20.0


class Terminal:
    """A child process with a screen of `columns` × `rows`. Use as a context manager: leaving it kills the child.

    Args:
        program: a command line; or a function, which runs in a fork of this process and spares it all imports.
    """

    def __init__(
        self,
        program: Sequence[str] | Callable[[], None],
        *,
        columns: int = 80,
        rows: int = 24,
        env: dict[str, str] | None = None,
    ) -> None:
        self.screen = _DimmingScreen(columns, rows, history=5000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.exit_code: int | None = None
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            for name in ("COLUMNS", "LINES"):
                os.environ.pop(name, None)
            os.environ.update(env or {})
            if callable(program):
                _run_in_fork(program)
            os.execvp(program[0], list(program))
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self._fd >= 0:
            os.close(self._fd)

    def send(self, text: str) -> None:
        """Type `text`; \\r is the Enter key, \\x03 Ctrl-C, \\x04 Ctrl-D."""
        os.write(self._fd, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Change the size; the kernel tells the child."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def wait_for(self, wanted: str | Callable[[str], bool]) -> str:
        """Read until `wanted` is on the screen or in its history; return both as text."""
        test = wanted if callable(wanted) else lambda text: wanted in text
        end_s = time.monotonic() + DEADLINE_S
        while not test(self.text):
            if not self._read(end_s - time.monotonic()):
                raise AssertionError(f"never came: {wanted!r}; the terminal shows\n{self.text}")
        return self.text

    def hang_up(self) -> int:
        """Take the terminal away; return the child's exit code, or minus the signal."""
        os.close(self._fd)
        self._fd = -1
        end_s = time.monotonic() + DEADLINE_S
        while self.is_running():
            assert time.monotonic() < end_s, "does not end"
            time.sleep(0.01)
        return self.exit_code

    def wait_exit(self) -> int:
        """Read until the child ends; return its exit code, or minus the signal."""
        end_s = time.monotonic() + DEADLINE_S
        while self._read(end_s - time.monotonic()):
            pass
        while self.is_running():
            if time.monotonic() > end_s:
                raise AssertionError(f"does not end; the terminal shows\n{self.text}")
            time.sleep(0.01)
        return self.exit_code

    @property
    def echoes(self) -> bool:
        """Whether the terminal shows what is typed by itself."""
        return bool(termios.tcgetattr(self._fd)[3] & termios.ECHO)

    def is_running(self) -> bool:
        """Whether the child lives; collects its exit code."""
        if self.exit_code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.exit_code = os.waitstatus_to_exitcode(status) if pid else None
        return self.exit_code is None

    @property
    def text(self) -> str:
        """All lines that were ever shown and stayed: scrolled-off ones, then the screen."""
        above = [
            "".join(line[column].data for column in range(self.screen.columns)) for line in self.screen.history.top
        ]
        lines = [line.rstrip() for line in [*above, *self.screen.display]]
        while lines and not lines[-1]:
            lines.pop()
        return "\n".join(lines)

    def _read(self, timeout_s: float) -> bool:
        if timeout_s <= 0 or not select.select([self._fd], [], [], timeout_s)[0]:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: the child has closed its end
            return False
        if b"\x1b[6n" in data:  # "where is the cursor?", which prompt_toolkit asks and a terminal answers
            os.write(self._fd, f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R".encode())
        self.raw += data
        self._stream.feed(data)
        return bool(data)


class _DimmingScreen(pyte.HistoryScreen):
    """Knows dimmed text, which pyte does not: its cells have `blink` set, which nothing else here does."""

    def select_graphic_rendition(self, *attrs: int, **kwargs: bool) -> None:
        mapped = {2: (5,), 22: (22, 25)}
        super().select_graphic_rendition(*(one for attr in attrs for one in mapped.get(attr, (attr,))), **kwargs)


def _run_in_fork(function: Callable[[], None]) -> NoReturn:
    """Run `function` on the terminal and end the process, whatever the test runner had planned for it."""
    code = 1
    try:
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        function()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        with contextlib.suppress(OSError):
            traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):  # a terminal that has hung up
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
