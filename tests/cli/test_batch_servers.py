"""`qwenctl batch --server`: with a fake server, and with `qwenctl serve` itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.fake_openai_server import FakeServer

pytestmark = pytest.mark.usefixtures("shared_cache")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    lines = [{"custom_id": f"q{n}", "prompt": f"What is {n}?", "max_tokens": 8} for n in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def texts(path: Path) -> dict[str, str]:
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in records}


def test_a_server_answers_and_the_key_stays_secret(qwenctl, questions, tmp_path, monkeypatch):
    monkeypatch.setenv("QWENCTL_API_KEY", "hush")
    out = tmp_path / "out.jsonl"
    with FakeServer(key="hush") as fake:
        ran = qwenctl("batch", questions, "-o", out, "--server", f"{fake.url}/v1", "--order", "input", "--json")
        assert ran.code == 0, ran.stderr
    document = json.loads(ran.stdout)
    assert (document["n_done"], document["n_prompt_tokens"], document["n_generated_tokens"]) == (6, 60, 30)
    assert list(texts(out)) == [f"q{n}" for n in range(6)]
    assert "hush" not in ran.stdout + ran.stderr + out.read_text()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--server", "http://127.0.0.1:9"], 1, "http://127.0.0.1:9: no connection"),
        (["--server", "http://a@b"], 2, "must not hold a name or password"),
        (["--server", "http://127.0.0.1:9,http://127.0.0.1:9/v1"], 2, "a server is named twice"),
        (["--server-model", "x"], 2, "of no use without --server"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(qwenctl, questions, tmp_path, words, code, message):
    ran = qwenctl("batch", questions, "-o", tmp_path / "out.jsonl", *words)
    assert (ran.code, ran.stdout) == (code, "")
    assert message in ran.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_one_of_two_servers_is_not_there_and_models_must_be_the_same(qwenctl, questions, tmp_path):
    out = tmp_path / "out.jsonl"
    with FakeServer(model="m") as one, FakeServer(model="n") as other:
        both = qwenctl("batch", questions, "-o", out, "--server", f"{one.url},{other.url}")
        assert both.code == 2
        assert "different models" in both.stderr
        ran = qwenctl("batch", questions, "-o", out, "--server", f"{one.url},http://127.0.0.1:9")
        assert ran.code == 0
        assert "http://127.0.0.1:9: no connection: it gets no lines" in ran.stderr
        assert len(one.bodies) == 6
        again = qwenctl("batch", questions, "-o", out, "--server", other.url, "--server-model", "k")
        assert again.code == 2
        assert "--restart" in again.stderr


@pytest.fixture
def live(demo_gguf: Path) -> Iterator[str]:
    """The URL of a `qwenctl serve` with the demo."""
    command = [sys.executable, "-m", "qwenctl", "serve", str(demo_gguf), "--port", "0", "--json", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = process.stdout.readline()
        try:
            assert text, process.stderr and process.stderr.read()
            yield json.loads(text)["url"]
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


def test_qwenctl_serve_answers_as_the_model_itself_does(qwenctl, demo_gguf, questions, live, tmp_path):
    here, there, beside = (tmp_path / name for name in ("here.jsonl", "there.jsonl", "beside.jsonl"))
    quick = ["--no-think", "--temp", "0"]
    local = ["--threads", "1", "--parallel", "2", "--ctx", "256"]
    assert qwenctl("batch", demo_gguf, questions, "-o", here, *quick, *local).code == 0
    ran = qwenctl("batch", questions, "-o", there, *quick, "--server", live)
    assert ran.code == 0, ran.stderr
    assert texts(there) == texts(here)
    ran = qwenctl("batch", demo_gguf, questions, "-o", beside, *quick, *local, "--server", live)
    assert ran.code == 0, ran.stderr
    assert texts(beside) == texts(here)


def test_ctrl_c_does_not_wait_for_a_server(questions, tmp_path):
    with FakeServer(lambda _number, _body: "hang") as fake:
        command = ["batch", str(questions), "-o", str(tmp_path / "out.jsonl"), "--server", fake.url]
        process = subprocess.Popen([sys.executable, "-m", "qwenctl", *command], stderr=subprocess.PIPE, text=True)
        while not fake.bodies:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=20)[1]
    assert (process.returncode, errors.split()) == (130, ["interrupted"])


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back(demo_gguf, tmp_path):
    """Its lines wait for it, and each is answered once."""
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"custom_id": f"q{n}", "prompt": f"What is {n}?", "max_tokens": 32} for n in range(120)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    serve = [sys.executable, "-m", "qwenctl", "serve", str(demo_gguf), "--json", "--threads", "1", "--port"]
    first = subprocess.Popen([*serve, "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert first.stdout is not None
    url = json.loads(first.stdout.readline())["url"]
    command = ["batch", str(path), "-o", str(out), "--server", url, "--retries", "5", "--order", "input"]
    batch = subprocess.Popen([sys.executable, "-m", "qwenctl", *command], stderr=subprocess.PIPE, text=True)
    while not (out.exists() and out.read_bytes().count(b"\n") >= 10):
        assert batch.poll() is None, batch.stderr and batch.stderr.read()
        time.sleep(0.005)
    first.kill()
    first.communicate()
    n_before = out.read_bytes().count(b"\n")
    port = url.rpartition(":")[2].rstrip("/")
    with subprocess.Popen([*serve, port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as second:
        errors = batch.communicate()[1]
        second.send_signal(signal.SIGINT)
    assert batch.returncode == 0, errors
    assert n_before < 120
    assert list(texts(out)) == [f"q{n}" for n in range(120)]
