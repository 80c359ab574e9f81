"""A tiny OpenAI-compatible server with faults, in this process: what a test's plan says happens to each request.

plan(number of the request, body) → None: answer it; 429, 500 …: that status; or one of the words of `Fault`
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

import urllib3

Fault = Literal["hang", "cut", "garbage", "drop", "nothing"]
Plan = Callable[[int, Mapping[str, Any]], int | Fault | None]


class FakeServer:
    """Listens on a free port of 127.0.0.1 until closed.

    Args:
        plan: what happens.
        model: the name of its model.
        key: that it wants.
        retry_after: header that goes with 429 and 503.
        n_parallel: that it says of itself.
        answer: text for a prompt.
        upstream: URL of a server that answers in this one's place.
    """

    def __init__(
        self,
        plan: Plan = lambda _number, _body: None,
        *,
        model: str = "fake",
        key: str | None = None,
        retry_after: str | None = None,
        n_parallel: int = 4,
        answer: Callable[[str], str] = lambda prompt: f"{len(prompt)} characters",
        upstream: str | None = None,
    ) -> None:
        self.plan, self.model, self.key, self.retry_after = plan, model, key, retry_after
        self.n_parallel, self.answer, self.upstream = n_parallel, answer, upstream
        self.bodies: list[dict[str, Any]] = []  # as they came
        self.n_active = self.most_active = 0
        self.released = threading.Event()  # lets what hangs go
        self._lock = threading.Lock()
        owner = self

        class Handler(_Handler):
            fake = owner

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Clients that went away are no news."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.bodies]

    def begin(self, body: dict[str, Any]) -> int:
        with self._lock:
            self.bodies.append(body)
            self.n_active += 1
            self.most_active = max(self.most_active, self.n_active)
            return len(self.bodies) - 1

    def end(self) -> None:
        with self._lock:
            self.n_active -= 1

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Tests are silent."""

    def do_GET(self) -> None:
        if self.fake.key and self.headers.get("Authorization") != f"Bearer {self.fake.key}":
            self._send(401, {"error": {"message": "who are you?"}})
        elif self.path == "/v1/models":
            meta = {"n_parallel": self.fake.n_parallel}
            self._send(200, {"object": "list", "data": [{"id": self.fake.model, "object": "model", "meta": meta}]})
        else:
            self._send(404, {"error": {"message": "not here"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number = self.fake.begin(body)
        try:
            self._act(self.fake.plan(number, body), body)
        finally:
            self.fake.end()

    def _act(self, fate: int | Fault | None, body: Mapping[str, Any]) -> None:
        if isinstance(fate, int):
            self._send(fate, {"error": {"message": f"planned {fate}", "type": "test"}})
        elif fate == "hang":
            self.fake.released.wait(30)
            self.close_connection = True
        elif fate in ("drop", "nothing"):
            if fate == "drop":
                self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        elif self.fake.upstream:
            self._relay(self.fake.upstream + self.path, body)
        elif fate == "garbage":
            self._send_bytes(200, b"<html>It works!</html>")
        else:
            data = json.dumps(self._answer(body)).encode()
            self._send_bytes(200, data, cut=len(data) // 2 if fate == "cut" else None)

    def _relay(self, url: str, body: Mapping[str, Any]) -> None:
        headers = {"Content-Type": "application/json"}
        data = json.dumps({name: value for name, value in body.items() if name != "model"}).encode()
        with urllib3.PoolManager() as pool:
            answer = pool.request("POST", url, body=data, headers=headers, retries=False, timeout=60)
        self._send_bytes(answer.status, answer.data)

    def _answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        head = {"id": "x", "created": 0, "model": body["model"], "usage": usage}
        if "input" in body:
            return {**head, "object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]}
        if "prompt" in body:
            return {
                **head,
                "object": "text_completion",
                "choices": [{"index": 0, "text": "…", "finish_reason": "stop"}],
            }
        text = self.fake.answer(body["messages"][-1]["content"])
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return {**head, "object": "chat.completion", "choices": [choice]}

    def _send(self, status: int, value: Any) -> None:
        self._send_bytes(status, json.dumps(value).encode())

    def _send_bytes(self, status: int, data: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status in (429, 503) and self.fake.retry_after is not None:
            self.send_header("Retry-After", self.fake.retry_after)
        self.end_headers()
        self.wfile.write(data[:cut])
        if cut is not None:
            self.close_connection = True
