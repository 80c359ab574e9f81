"""A server on a thread of the test's own process, with an engine that says what it is told, and a small client."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from qwenctl.services.generation import ChatModel
from qwenctl.services.server.desk import Desk
from qwenctl.services.server.model_host import ModelSource, OpenedModel
from qwenctl.services.server.run_server import HttpServer, http_config
from qwenctl.services.server.server_options import ServerOptions
from qwenctl.services.serving.engine_runner import EngineRunner
from tests.scripted_engine import ScriptedEngine

MESSAGES = [{"role": "user", "content": "Hello"}]


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of a stream, the end mark left out."""
        lines = self.body.decode().split("\n\n")
        data = [line.partition("data: ")[2] for block in lines for line in block.split("\n") if "data: " in line]
        return [json.loads(one) for one in data if one != "[DONE]"]


@dataclass
class LiveServer:
    port: int
    desk: Desk
    loop: asyncio.AbstractEventLoop
    engines: list[ScriptedEngine]

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} if data is not None else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, data, given | dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def chat(self, **fields: Any) -> Answer:
        return self.ask("POST", "/v1/chat/completions", {"messages": MESSAGES} | fields)

    def raw(self, data: bytes, *, timeout_s: float = 20) -> bytes:
        """Send bytes as they are; return all that comes until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            connection.sendall(data)
            found = b""
            try:
                while part := connection.recv(1 << 16):
                    found += part
            except ConnectionResetError:
                pass
            return found

    def on_loop(self, call: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(20)


def post(body: bytes, path: str = "/v1/chat/completions", headers: Sequence[str] = ()) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    return ("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])).encode() + body


@contextmanager
def live_server(
    engine: Callable[[], ScriptedEngine] = ScriptedEngine,
    *,
    names: Sequence[str] = ("scripted",),
    n_parallel: int = 4,
    wait: bool = True,
    on_open: Callable[[str], None] = lambda name: None,
    **options: Any,
) -> Iterator[LiveServer]:
    engines: list[ScriptedEngine] = []

    def open_model(name: str) -> OpenedModel:
        on_open(name)
        made = engine()
        made.n_parallel = n_parallel
        engines.append(made)
        return OpenedModel(ChatModel(made), EngineRunner(made, n_parallel), n_parallel)

    source = ModelSource(names[0], open_model, lambda: names)
    started: threading.Event = threading.Event()
    found: list[Any] = []
    stop: list[Callable[[], None]] = []

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        desk = Desk(source, ServerOptions(**({"port": 0} | options)), n_parallel)
        server = HttpServer(http_config(desk))
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        stop.append(lambda: loop.call_soon_threadsafe(ended.set))
        serving = loop.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        loading = None if desk.options.lazy else loop.create_task(desk.host.start())
        if wait and loading:
            await loading
        found.append(LiveServer(listener.getsockname()[1], desk, loop, engines))
        started.set()
        await ended.wait()
        if loading:
            await loading
        await desk.close()
        server.should_exit = True
        await serving

    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(30)
    if failures:
        raise failures[0]
    try:
        yield found[0]
    finally:
        stop[0]()
        thread.join(30)
        assert not thread.is_alive()
        if failures:
            raise failures[0]
