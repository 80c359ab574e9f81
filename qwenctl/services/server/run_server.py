"""A server's life: a socket, uvicorn on it, the model loaded beside it, and an end in order.

first SIGINT or SIGTERM    new answers are refused, those under way may finish for a while
second one                 everything ends now
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import uvicorn

from qwenctl.errors import ExitCode, QwenctlError
from qwenctl.services.generation import ChatOptions
from qwenctl.services.server.desk import PREPARE_THREADS, Desk
from qwenctl.services.server.http_connection import connection_class
from qwenctl.services.server.model_host import ModelSource
from qwenctl.services.server.server_options import ServerOptions
from qwenctl.services.server.web_app import make_app

_HEADER_BYTES = 64 << 10
_POLL_S = 0.05
_PATIENCE_S = 1.0


class ServerEvents:
    """Whom the server tells what happens. The defaults tell nobody."""

    def listening(self, url: str) -> None:
        """Connections are taken."""

    def ready(self) -> None:
        """The model is loaded."""

    def draining(self, n_under_way: int) -> None:
        """The first signal came; that many answers are under way."""


class HttpServer(uvicorn.Server):
    """uvicorn, without signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to us."""
        yield


def run_server(
    source: ModelSource,
    options: ServerOptions,
    n_parallel: int,
    events: ServerEvents | None = None,
    defaults: ChatOptions | None = None,
) -> signal.Signals:
    """Serve until a signal comes; return which one it was. On the main thread only.

    Args:
        n_parallel: answers that the engine computes at once.
        defaults: what holds where a request says nothing.

    Raises:
        QwenctlError: the address cannot be listened at, or the model cannot be loaded (not with `options.lazy`).
    """
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what it complains of is what clients do
    listener = _listen(options)
    try:
        life = _Life(source, options, n_parallel, events or ServerEvents(), defaults)
        number = asyncio.run(life.run(listener))
    finally:
        listener.close()
        if options.unix_socket is not None:
            options.unix_socket.unlink(missing_ok=True)
    if _is_busy():
        _exit_now(number)
    return number


class _Life:
    """One run of the server."""

    def __init__(
        self,
        source: ModelSource,
        options: ServerOptions,
        n_parallel: int,
        events: ServerEvents,
        defaults: ChatOptions | None,
    ) -> None:
        self._source = source
        self._options = options
        self._n_parallel = n_parallel
        self._events = events
        self._defaults = defaults
        self._signals: list[signal.Signals] = []
        self._signalled = asyncio.Event()

    async def run(self, listener: socket.socket) -> signal.Signals:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        desk = Desk(self._source, self._options, self._n_parallel, self._defaults)
        server = HttpServer(http_config(desk))
        serving = loop.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(_POLL_S)
        self._events.listening(_url(listener, self._options))
        try:
            await self._load(desk)
            await self._signalled.wait()
            await self._drain(desk)
        finally:
            desk.admission.is_draining = True
            await desk.close()
            server.should_exit = True
            await serving
        return self._signals[0]

    async def _load(self, desk: Desk) -> None:
        if self._options.lazy:
            self._events.ready()
            return
        loading = asyncio.get_running_loop().create_task(desk.host.start())
        signalled = asyncio.get_running_loop().create_task(self._signalled.wait())
        await asyncio.wait((loading, signalled), return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        if not loading.done():
            # A native call of minutes cannot be ended, nor its thread be joined. There is nothing to lose yet.
            if self._options.unix_socket is not None:
                self._options.unix_socket.unlink(missing_ok=True)
            _exit_now(self._signals[0])
        await loading
        self._events.ready()

    async def _drain(self, desk: Desk) -> None:
        """Wait for answers under way, until they are done, time is up, or another signal comes."""
        desk.admission.is_draining = True
        if desk.admission.n_under_way:
            self._events.draining(desk.admission.n_under_way)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.limits.drain_s):
                while desk.admission.n_under_way and len(self._signals) < 2:
                    await asyncio.sleep(_POLL_S)

    def _on_signal(self, number: int) -> None:
        self._signals.append(signal.Signals(number))
        self._signalled.set()


def http_config(desk: Desk) -> uvicorn.Config:
    """Return how uvicorn is to serve `desk`."""
    limits = desk.options.limits
    return uvicorn.Config(
        make_app(desk),
        http=connection_class(limits.header_s),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=limits.n_connections,
        timeout_keep_alive=int(limits.keep_alive_s),
        timeout_graceful_shutdown=2,  # our own end of answers came before
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )


def _is_busy() -> bool:
    """Whether a request is still being prepared, after some patience: Python would wait for its thread for ever."""
    busy = [thread for thread in threading.enumerate() if thread.name.startswith(PREPARE_THREADS)]
    for thread in busy:
        thread.join(_PATIENCE_S)
    return any(thread.is_alive() for thread in busy)


def _exit_now(number: signal.Signals) -> NoReturn:
    os._exit(ExitCode.INTERRUPTED if number is signal.SIGINT else ExitCode.DONE)


def _listen(options: ServerOptions) -> socket.socket:
    if options.unix_socket is not None:
        return _listen_unix(options.unix_socket)
    host, port = options.host.strip("[]"), options.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        hint = f"--port {port + 1} is another one, --port 0 any that is free"
        raise QwenctlError(f"cannot listen at {host}:{port}: {error.strerror}", hint) from error
    listener.setblocking(False)
    return listener


def _listen_unix(path: Path) -> socket.socket:
    """Only the user may connect. A socket that nobody listens at any more is replaced."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and _is_stale(str(path)):
            path.unlink()
        former = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(former)
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise QwenctlError(f"cannot listen at {path}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def _is_stale(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
    return False


def _url(listener: socket.socket, options: ServerOptions) -> str:
    if options.unix_socket is not None:
        return f"unix:{options.unix_socket}"
    host = f"[{options.host.strip('[]')}]" if ":" in options.host else options.host
    return f"http://{host}:{listener.getsockname()[1]}"
