"""The servers side by side: how each is started on a model, what its requests need, and its end.

All get the same number of threads, sequences and cells, and no two run at the same time. Prefixes of prompts are kept
as each of them does by itself.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qwenctl.services.bench.http_load import Target

from .llama_server import llama_server
from .python_server import python_server

ROOT = Path(__file__).resolve().parents[2]
OURS, LLAMA_SERVER, PYTHON_SERVER = "qwenctl serve", "llama-server", "llama_cpp.server"
START_LIMIT_S = 120.0
_OUR_KEY = "of-this-measurement"  # ours would ask for the one that the user has configured
_READY = {OURS: "/ready", LLAMA_SERVER: "/health", PYTHON_SERVER: "/v1/models"}


@dataclass(frozen=True, slots=True)
class Setting:
    """How a server is to be opened."""

    model: Path
    n_parallel: int
    n_ctx: int  # of each sequence
    n_threads: int


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers."""

    name: str
    target: Target
    pid: int

    def cpu_s(self) -> float:
        """Return the processor time that it has taken so far (proc(5): fields 14 and 15 of stat)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class ServerFailedError(Exception):
    """A server did not start, or ended before it was asked to."""


def command_of(name: str, setting: Setting, port: int) -> list[str]:
    """Return the command that starts a server."""
    model, threads = str(setting.model), str(setting.n_threads)
    if name == OURS:
        return [
            *(sys.executable, "-m", "qwenctl", "serve", model, "--port", str(port), "--threads", threads),
            *("--parallel", str(setting.n_parallel), "--ctx", str(setting.n_ctx)),
            "--no-prompt-cache",  # on disk: the same prompts may have been asked yesterday
        ]
    if name == LLAMA_SERVER:
        # Sequences with cells of their own, as ours have: quicker on a CPU than one pool for all.
        return [
            *(str(llama_server()), "--model", model, "--port", str(port), "--threads", threads, "--no-webui"),
            *("--parallel", str(setting.n_parallel), "--ctx-size", str(setting.n_ctx * setting.n_parallel)),
            *("--no-kv-unified", "--jinja"),
        ]
    # It computes one request at a time, whatever comes; by default a new one would break off the one before it.
    return [
        *(str(python_server()), "-m", "llama_cpp.server", "--model", model, "--port", str(port)),
        *("--n_threads", threads, "--n_threads_batch", threads, "--n_ctx", str(setting.n_ctx)),
        *("--interrupt_requests", "False", "--verbose", "False"),
    ]


@contextmanager
def running(name: str, setting: Setting) -> Iterator[Running]:
    """Start a server, wait until it answers, and end it.

    Raises:
        ServerFailedError: it does not start, with the end of what it printed.
    """
    port = _free_port()
    command = command_of(name, setting, port)
    is_ours = name == OURS
    ours = {"PYTHONPATH": str(ROOT), "QWENCTL_API_KEY": _OUR_KEY} if is_ours else {}
    target = Target(f"http://127.0.0.1:{port}", None if is_ours else "any", _OUR_KEY if is_ours else None)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **ours}
        )
        try:
            try:
                _await(f"http://127.0.0.1:{port}{_READY[name]}", process)
            except ServerFailedError as error:
                log.seek(0)
                said = log.read().decode("utf-8", "replace").strip().splitlines()[-5:]
                raise ServerFailedError("\n  ".join([f"{name}: {error}", *said])) from None
            yield Running(name, target, process.pid)
        finally:
            _end(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailedError(f"ended with status {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise ServerFailedError(f"does not answer after {START_LIMIT_S:.0f} s")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
