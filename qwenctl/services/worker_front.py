"""What listens for a worker: says who it is and that it is alive, and passes one client's bytes on to ggml's server.

    first byte 14 (ggml's HELLO)   the client's connection is joined with one to the process that computes
    first byte q                   `qwenctl hello` or `qwenctl watch`: worker_identity.py

ggml's server listens on a port of its own, takes one client at a time and says nothing to anybody else; so a client
that waits for it cannot tell work from a hang. The front answers on the same port, whatever the client's computation
takes, and the same address goes through one firewall rule or one SSH tunnel. It adds 0.1 ms to a round trip.

A client that goes away is noticed by the end of its connection, or, without one, by TCP's keep-alive. Its computation
is ended if ggml does not come back within two seconds; a process that ggml aborted is replaced. No authentication, no
encryption: whoever reaches the address may use it.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import NoReturn

from qwenctl import __version__
from qwenctl.errors import QwenctlError
from qwenctl.services.tcp_keepalive import keep_alive
from qwenctl.services.worker_identity import (
    ALIVE,
    ALIVE_EVERY_S,
    HELLO,
    MOST_LINE_BYTES,
    WATCH,
    WorkerIdentity,
    installed_build,
)
from qwenctl.services.worker_process import WorkerJob, WorkerProcess

_RPC = 14
_LOOK_FOR_SIGNALS_S = 0.2
_FIRST_BYTE_LIMIT_S = 10.0
_QUEUE_LIMIT_S = 10.0  # that a client waits for the one before it
_SETTLE_LIMIT_S = 2.0  # that a computation may take which nobody wants any more
_MOST_CONNECTIONS = 64
_PIECE_BYTES = 1 << 20


class WorkerFront:
    """A listening worker. Use `serve`, and close it.

    Args:
        host, port: where to listen; port 0: a free one.
        job: what to serve.
        on_note: told what happens, in a line.

    Attributes:
        address: "host:port".
        process: the one that computes now.

    Raises:
        QwenctlError: the address cannot be had, or ggml's server does not start.
        InvalidRequest: a device is not there.
    """

    def __init__(self, host: str, port: int, job: WorkerJob, on_note: Callable[[str], None]) -> None:
        self._job, self._on_note = job, on_note
        self._listener = _listening(host, port)
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        self._session = threading.Lock()
        self._changes = threading.Lock()  # of the process
        self._closed = False
        self._connections = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        self._build = installed_build()
        try:
            self.process = WorkerProcess(job)
        except BaseException:
            self._listener.close()
            raise

    def serve(self) -> NoReturn:
        """Take connections until a signal's handler raises something."""
        self._listener.settimeout(_LOOK_FOR_SIGNALS_S)
        while True:
            try:
                client, address = self._listener.accept()
            except TimeoutError:
                continue
            if not self._connections.acquire(blocking=False):
                client.close()
                continue
            threading.Thread(target=self._serve, args=(client, f"{address[0]}:{address[1]}"), daemon=True).start()

    def close(self) -> None:
        """Stop listening and end the process that computes, whoever is being served."""
        self._listener.close()
        with self._changes:
            self._closed = True
            self.process.close()

    def _serve(self, client: socket.socket, name: str) -> None:
        try:
            with client, suppress(OSError):
                client.settimeout(_FIRST_BYTE_LIMIT_S)
                keep_alive(client)
                # As ggml's server has it, which sends an answer in two pieces: else the second waits up to 40 ms.
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                first = client.recv(1, socket.MSG_PEEK)
                if first == bytes((_RPC,)):
                    client.settimeout(None)
                    self._serve_rpc(client, name)
                elif first == HELLO[:1]:
                    self._answer(client)
        finally:
            self._connections.release()

    def _answer(self, client: socket.socket) -> None:
        with client.makefile("rb") as stream:
            line = stream.readline(MOST_LINE_BYTES)
        if line == HELLO:
            identity = WorkerIdentity(__version__, self.process.rpc, self._build, self._session.locked())
            client.sendall(identity.line())
        elif line == WATCH:
            while self.process.is_well:
                client.sendall(ALIVE)
                time.sleep(ALIVE_EVERY_S)

    def _serve_rpc(self, client: socket.socket, name: str) -> None:
        if not self._session.acquire(timeout=_QUEUE_LIMIT_S):
            self._on_note(f"{name} was refused: another client is served")
            return
        try:
            self._make_ready(f"before it served {name}")
            with closing(self.process.connect()) as inner:
                settled = _join(client, inner)
            if not settled:
                self.process.kill()
            self._make_ready(f"while it served {name}" if settled else "because nobody waited for it any more")
        except QwenctlError as error:
            self._on_note(error.message)
        finally:
            self._session.release()

    def _make_ready(self, when: str) -> None:
        """Replace the process that computes unless it answers: ggml aborts on what it cannot compute."""
        with self._changes:
            if self._closed or self.process.serves(_SETTLE_LIMIT_S):
                return
            self.process.kill()
            self._on_note(f"the process that computes ended {when} ({self.process.last_words()})")
            self.process.close()
            self.process = WorkerProcess(self._job)


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=16)
    except OSError as error:
        reason = error.strerror or str(error)
        raise QwenctlError(f"cannot listen at {host}:{port}: {reason}", "name another address with --listen") from error


def _join(client: socket.socket, inner: socket.socket) -> bool:
    """Pass bytes on in both directions until one side has ended; False: ggml still computes for a client that went."""
    back = threading.Thread(target=_pump_back, args=(inner, client), daemon=True)
    back.start()
    _pump(client, inner)
    with suppress(OSError):
        inner.shutdown(socket.SHUT_WR)
    back.join(_SETTLE_LIMIT_S)
    return not back.is_alive()


def _pump_back(inner: socket.socket, client: socket.socket) -> None:
    _pump(inner, client)
    with suppress(OSError):  # ggml's server ended: so does what waits for the client's next bytes
        client.shutdown(socket.SHUT_RDWR)


def _pump(source: socket.socket, target: socket.socket) -> None:
    buffer = memoryview(bytearray(_PIECE_BYTES))
    with suppress(OSError):
        while n_bytes := source.recv_into(buffer):
            target.sendall(buffer[:n_bytes])
