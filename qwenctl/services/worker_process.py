"""A worker's computing process as its front sees it: started on a free port, asked how it is, ended.

Knows nothing of clients.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.services.rpc_connection import RpcConnection, connect

_START_LIMIT_S = 60.0  # GPUs take their time
_PAUSE_S = 0.02
_TRIES = 3  # somebody else may take the port between two looks at it
_LAST_BYTES = 4096
_START = (
    f"import sys; sys.path.append({str(Path(__file__).parents[2])!r}); "
    "from qwenctl.services.worker_backend import main; main()"
)


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """What is to be served."""

    devices: tuple[str, ...] | None  # names; None: all GPUs, or else the CPU
    memory_bytes: int | None  # that clients are told of; None: what there is
    n_threads: int


@dataclass(frozen=True, slots=True)
class ServedDevice:
    """A device as it is told to clients. All bytes."""

    name: str
    description: str
    free: int
    total: int


class WorkerProcess:
    """ggml's server, ready for a client.

    Attributes:
        port: on loopback.
        devices: that it serves.
        bounded: whether it reports what is left of the budget; False on a build of ggml that is not known.
        rpc: version of the protocol, "7.0.0".

    Raises:
        InvalidRequest: a device is not there.
        QwenctlError: it could not be started.
    """

    def __init__(self, job: WorkerJob) -> None:
        for last in (False,) * (_TRIES - 1) + (True,):
            self.port = _free_port()
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
            self._process = self._started(job)
            try:
                told = self._first_line()
                self.devices = tuple(ServedDevice(**device) for device in told["devices"])
                self.bounded = bool(told["bounded"])
                self.rpc = self._wait_until_it_serves()
            except BaseException as error:
                self.close()
                if last or not isinstance(error, _NotServing):
                    raise
            else:
                return

    @property
    def _endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def is_well(self) -> bool:
        """Whether it is there and not stopped. What it computes, and for how long, cannot be seen from here."""
        if self._process.poll() is not None:
            return False
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # no /proc
            return True
        return stat.rpartition(")")[2].split()[0] not in ("T", "t", "Z", "X")

    def serves(self, limit_s: float) -> bool:
        """Whether ggml's server answers a new client in time."""
        try:
            RpcConnection(self._endpoint, limit_s).close()
        except OSError:
            return False
        return True

    def last_words(self) -> str:
        """Wait for its end; return how it ended and the last line that it printed."""
        status = self._process.wait()
        how = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
        self._log.seek(max(0, self._log.seek(0, 2) - _LAST_BYTES))
        lines = [line for line in self._log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return f"{how}: {lines[-1].strip()}" if lines else how

    def connect(self) -> socket.socket:
        """Return a connection; ggml takes the next one after this one has ended."""
        return connect(self._endpoint, None)

    def kill(self) -> None:
        """End it at once; `close` it nevertheless."""
        self._process.kill()

    def close(self) -> None:
        """End it at once, and free everything."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream:
                stream.close()

    def _started(self, job: WorkerJob) -> subprocess.Popen[bytes]:
        argument = {"port": self.port, "devices": job.devices, "memory_bytes": job.memory_bytes}
        command = [sys.executable, "-P", "-c", _START, json.dumps({**argument, "n_threads": job.n_threads})]
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C in the terminal is for the front, which ends this
        )

    def _first_line(self) -> dict[str, Any]:
        line = cast("Any", self._process.stdout).readline()
        if not line:
            raise QwenctlError(f"the process that is to compute ended ({self.last_words()})")
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise InvalidRequest(told["error"], "`qwenctl doctor` lists this machine's devices")
        return told

    def _wait_until_it_serves(self) -> str:
        deadline = time.monotonic() + _START_LIMIT_S
        while True:
            try:
                with RpcConnection(self._endpoint, _START_LIMIT_S) as connection:
                    return ".".join(map(str, connection.version))
            except OSError as error:
                if self._process.poll() is not None:
                    raise _NotServing(f"ggml's RPC server ended ({self.last_words()})") from error
                if time.monotonic() > deadline:
                    raise QwenctlError(f"ggml's RPC server does not answer: {error}") from error
            time.sleep(_PAUSE_S)


class _NotServing(QwenctlError):
    """It ended before it served: its port was taken, as a rule."""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
