"""`qwenctl serve` as a process: with the demo."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

CHAT = {"messages": [{"role": "user", "content": "What is a river?"}], "max_tokens": 12, "temperature": 0}


class Served:
    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, ({"Content-Type": "application/json"} if data else {}) | headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        kind = response.getheader("content-type", "")
        return response.status, json.loads(content) if kind.startswith("application/json") else content.decode()

    def end(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


def run(*words: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "qwenctl", "serve", *words],
        cwd=ROOT, env=os.environ | environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@contextmanager
def served(*words: str, **environ: str) -> Iterator[Served]:
    process = run(*words, "--port", "0", "--parallel", "2", **environ)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if line.startswith("serving "):
                yield Served(process, int(line.split(" at http://127.0.0.1:")[1].split()[0]))
                break
        else:
            pytest.fail(f"the server ended with {process.wait()}")
    finally:
        process.kill()
        process.communicate()


def test_the_demo(demo_gguf: Path) -> None:
    with served(str(demo_gguf)) as server:
        assert server.ask("GET", "/ready")[1]["status"] == "ready"
        status, models = server.ask("GET", "/v1/models")
        entry = models["data"][0]
        assert (status, entry["id"], entry["meta"]["thinking"]) == (200, demo_gguf.stem, "hybrid")
        status, answer = server.ask("POST", "/v1/chat/completions", CHAT | {"model": demo_gguf.stem})
        assert (status, answer["usage"]["completion_tokens"]) == (200, 12)
        assert answer["choices"][0]["message"]["reasoning"]
        again = server.ask("POST", "/v1/chat/completions", CHAT)[1]
        assert again["choices"] == answer["choices"]
        assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        status, text = server.ask("POST", "/v1/completions", {"prompt": "A river is", "max_tokens": 5, "logprobs": 2})
        assert (status, len(text["choices"][0]["logprobs"]["tokens"])) == (200, 5)
        asked = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 10}
        status, message = server.ask("POST", "/v1/messages", asked)
        assert (status, message["role"], message["content"][0]["type"]) == (200, "assistant", "text")
        assert server.ask("POST", "/v1/messages/count_tokens", asked)[1]["input_tokens"] > 0
        metrics = server.ask("GET", "/metrics")[1]
        assert 'qwenctl_answers_total{reason="length"}' in metrics
        assert server.ask("GET", "/")[1].startswith("<!doctype html>")
        code, err = server.end(signal.SIGTERM)
        assert (code, err) == (0, "")


def test_ctrl_c_and_a_key(demo_gguf: Path) -> None:
    with served(str(demo_gguf), "--lazy", QWENCTL_API_KEY="secret") as server:
        assert server.ask("GET", "/health")[0] == 200
        assert server.ask("POST", "/v1/chat/completions", CHAT)[0] == 401
        assert server.ask("POST", "/v1/chat/completions", CHAT, Authorization="Bearer secret")[0] == 200
        code, err = server.end(signal.SIGINT)
        assert code == 130
        assert err.strip() == "interrupted"


def test_what_is_refused_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for words, code, message in (
            (("--host", "0.0.0.0"), 2, "0.0.0.0 can be reached from other machines, and no key was given"),
            (("--port", str(port)), 1, f"cannot listen at 127.0.0.1:{port}: Address already in use"),
            (("--cors-origin", "app"), 2, "'app' is no origin"),
            (("--idle-unload", "soon"), 2, "'soon' is not a time"),
            (("no-such-model",), 1, "no model no-such-model"),
        ):
            process = run(*words)
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out) == (code, "")
            assert message in err


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"k" * 5000, "is longer than 4096 bytes"), ("schlüssel".encode(), "is not ASCII"), (b"\n", "and not empty")],
    ids=["long", "foreign", "empty"],
)
def test_files_without_a_key(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with run("--api-key-file", str(tmp_path / "key"), "--lazy") as process:
        _, said = process.communicate(timeout=60)
    assert (process.returncode, reason in said) == (2, True)


def test_what_options_say_of_answers_holds_where_a_request_says_nothing(demo_gguf: Path) -> None:
    with served(str(demo_gguf), "--no-think", "--max-tokens", "3") as server:
        answer = server.ask("POST", "/v1/chat/completions", {"messages": CHAT["messages"]})[1]
        assert (answer["usage"]["completion_tokens"], answer["choices"][0]["message"]["reasoning"]) == (3, None)
        asked = {"messages": CHAT["messages"], "max_tokens": 5, "enable_thinking": True, "temperature": 0}
        answer = server.ask("POST", "/v1/chat/completions", asked)[1]
        assert answer["usage"]["completion_tokens"] == 5
        assert answer["choices"][0]["message"]["reasoning"]
        assert answer["qwenctl"]["notes"]


def test_hostile_grammars_and_schemas_reach_no_native_parser(demo_gguf: Path) -> None:
    with served(str(demo_gguf)) as server:
        nested = "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000
        for more in ({"grammar": nested}, {"grammar": "root ::= missing"}, {"logit_bias": {"99999999": 1}}):
            status, answer = server.ask("POST", "/v1/chat/completions", CHAT | more)
            assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
        schema = {"type": "object", "properties": {"name": {"enum": ["a", "b"]}}, "required": ["name"]}
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        asked = CHAT | {"response_format": form, "max_tokens": 200, "thinking_budget": 20}
        status, answer = server.ask("POST", "/v1/chat/completions", asked)
        assert status == 200
        assert json.loads(answer["choices"][0]["message"]["content"])["name"] in ("a", "b")
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


def test_the_second_ctrl_c_ends_answers_under_way(demo_gguf: Path) -> None:
    with served(str(demo_gguf)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        body = CHAT | {"stream": True, "max_tokens": 1900, "logit_bias": {"2": -100}, "temperature": 1.5}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.readline().startswith(b"data: ")
        server.process.send_signal(signal.SIGINT)
        assert server.process.stderr is not None
        if server.process.stderr.readline().startswith("1 answers are under way"):  # it may have just ended
            code, _ = server.end(signal.SIGINT)
            assert code == 130
            assert response.read().strip().endswith((b"data: [DONE]", b'"code":"shutting_down"}}'))
        connection.close()


def test_a_socket_file(demo_gguf: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    process = run(str(demo_gguf), "--unix-socket", str(path), "--lazy", "--json")
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline()) == {"url": f"unix:{path}", "model": demo_gguf.stem}
        assert path.stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: whatever\r\nConnection: close\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        process.terminate()
        assert process.wait(60) == 0
        assert not path.exists()
    finally:
        process.kill()
        process.communicate()


def test_another_model_that_is_here(demo_gguf: Path, home: Path) -> None:
    models = home / "data" / "qwenctl" / "models"
    models.mkdir(parents=True)
    for name in ("one", "two"):
        (models / f"{name}.gguf").symlink_to(demo_gguf)
    with served("one", "--allow-switch") as server:
        assert [entry["id"] for entry in server.ask("GET", "/v1/models")[1]["data"]] == ["one", "two"]
        for name in ("two", "one"):
            assert server.ask("POST", "/v1/chat/completions", CHAT | {"model": name})[1]["model"] == name
        assert server.ask("POST", "/v1/chat/completions", CHAT | {"model": str(demo_gguf)})[0] == 404
