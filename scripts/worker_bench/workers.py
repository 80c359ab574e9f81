"""Workers on loopback as child processes, and commands that use them: started, killed, stopped, timed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

QWENCTL = (sys.executable, "-m", "qwenctl")


class Worker:
    """A running `qwenctl worker`.

    Args:
        memory: its --memory.
        port: to listen at; 0: a free one. `start` again uses the same.
    """

    def __init__(self, memory: str, port: int = 0) -> None:
        self._memory = memory
        self.address = f"127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        words = ["worker", "--listen", self.address, "--memory", self._memory, "--threads", "1", "--json", "-q"]
        self.process = subprocess.Popen([*QWENCTL, *words], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        with self.process.stdout as told:
            self.address = json.loads(told.readline())["address"]

    def kill(self) -> None:
        """SIGKILL, and no more."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGSTOP to it and to the process that computes: everything is as it was, and nothing moves."""
        for pid in (self.process.pid, *self.children()):
            os.kill(pid, signal.SIGSTOP)

    def stop_computing(self) -> None:
        """SIGSTOP to the process that computes alone."""
        for pid in self.children():
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Undo a stop."""
        for pid in (*self.children(), self.process.pid):
            os.kill(pid, signal.SIGCONT)

    def peak_bytes(self) -> int:
        """The most that the process that computes has held so far."""
        return max((_peak_bytes(pid) for pid in self.children()), default=0)

    def children(self) -> list[int]:
        """Processes of the worker, whichever of its threads started them."""
        return _children(self.process.pid)

    def end(self) -> int:
        """SIGTERM; returns the exit code."""
        self.process.terminate()
        return self.process.wait()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    seconds: float  # from the disturbance, or from the start without one


def ended(process: subprocess.Popen[str], since: float) -> Ended:
    """Wait for a command; a minute is too long."""
    try:
        stdout, stderr = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        return Ended(-99, stdout, stderr, time.monotonic() - since)
    return Ended(process.returncode, stdout, stderr, time.monotonic() - since)


def started(words: Sequence[str]) -> subprocess.Popen[str]:
    """Start `qwenctl …`."""
    return subprocess.Popen([*QWENCTL, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def is_clear(how: Ended, address: str) -> bool:
    """Whether a command ended by itself with exit code 1 and one line of error that names the worker."""
    errors = [line for line in how.stderr.splitlines() if line.startswith("error: ")]
    return how.code == 1 and len(errors) == 1 and address in errors[0] and "Traceback" not in how.stderr


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
