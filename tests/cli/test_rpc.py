"""`--rpc` through the commands: a remote device computes, and its loss ends in one line of error."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE

import pytest

from tests.cli.conftest import Ran
from tests.services.rpc_server import RpcServer, running_rpc_server

pytestmark = pytest.mark.usefixtures("shared_cache")


@pytest.fixture(scope="module")
def server() -> Iterator[RpcServer]:
    """Killed by the last test."""
    with running_rpc_server() as running:
        yield running


@pytest.fixture
def endless(demo_gguf: Path, tmp_path: Path, server: RpcServer) -> list[str]:
    """A command that answers for minutes."""
    grammar = tmp_path / "endless.gbnf"
    grammar.write_text('root ::= "word " root')
    words = ["Tell me a story", "--grammar", str(grammar), "--max-tokens", "8000", "--rpc", server.endpoint]
    return [sys.executable, "-m", "qwenctl", "run", str(demo_gguf), *words]


def test_run_answers(demo_gguf: Path, server: RpcServer, qwenctl: Callable[..., Ran]) -> None:
    question = "What is the capital of France?"
    ran = qwenctl("run", demo_gguf, question, "--no-think", "--temp", 0, "--rpc", server.endpoint, "--quiet")
    assert ran == (0, "The capital of France is Paris.\n", "")


@pytest.mark.parametrize(("endpoint", "code", "error"), [("nowhere", 2, "names no RPC"), ("127.0.0.1:1", 1, "refused")])
def test_what_is_no_server(demo_gguf: Path, endpoint: str, code: int, error: str, qwenctl: Callable[..., Ran]) -> None:
    ran = qwenctl("run", demo_gguf, "Hello", "--rpc", endpoint)
    assert (ran.code, ran.stdout) == (code, "")
    assert [line.partition(" ")[0] for line in ran.stderr.splitlines()] == ["error:", "hint:"]
    assert error in ran.stderr


@pytest.mark.slow
def test_ctrl_c_is_for_the_program_and_not_for_the_engine(endless: list[str]) -> None:
    with subprocess.Popen(endless, stdout=PIPE, stderr=PIPE, start_new_session=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.read(20) == b"word word word word "
        os.killpg(running.pid, signal.SIGINT)
        said = running.stderr.read()
    assert (running.returncode, said.splitlines()[-1]) == (130, b"interrupted")


def test_run_survives_the_loss_of_its_server(endless: list[str], server: RpcServer) -> None:
    with subprocess.Popen([*endless, "--quiet"], stdout=PIPE, stderr=PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.read(20) == b"word word word word "
        server.kill()
        rest, said = running.stdout.read(), running.stderr.read().decode().splitlines()
    assert running.returncode == 1
    assert re.fullmatch(rb"(word )*w?o?r?d?\n", rest)
    lost = f"the connection to RPC device {server.endpoint} was lost (ggml stopped the engine's process)"
    assert said[0] == f"error: {lost}"
    assert [line.partition(" ")[0] for line in said] == ["error:", "hint:"]
