"""No packet leaves the machine in `run`, `chat`, `batch`, `convert` and `plan FILE`.

Each runs for real, on the demo, behind the two walls of tests/no_network.py: a socket to another machine would kill the
process that asks for it, and there is no interface that a packet could leave by. So what is proved is that these
commands, with all processes that they start and all libraries in these, work without a network and never ask for one.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from qwenctl.cli.main import COMMANDS
from tests.no_network import NOT_PERMITTED, SOCKET_CALL

pytestmark = [
    pytest.mark.skipif(
        sys.platform != "linux" or platform.machine() not in SOCKET_CALL, reason="seccomp and namespaces are Linux's"
    ),
    pytest.mark.usefixtures("shared_cache"),
]
Walled = Callable[..., subprocess.CompletedProcess[str]]


def behind_walls(
    words: Sequence[object], text: str = "", *, namespace: bool = True
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.no_network", *(["--namespace"] if namespace else []), *map(str, words)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, env=dict(os.environ))


@pytest.fixture
def walled() -> Walled:
    """Run `qwenctl …` behind both walls, or behind seccomp alone where namespaces are not permitted."""

    def run(*words: object, text: str = "") -> subprocess.CompletedProcess[str]:
        ran = behind_walls(["-m", "qwenctl", *words], text)
        if ran.returncode == NOT_PERMITTED:
            ran = behind_walls(["-m", "qwenctl", *words], text, namespace=False)
            assert ran.returncode == 0, ran.stderr
            pytest.skip("network namespaces are not permitted here; no socket was asked for, though")
        assert ran.stderr.splitlines()[-1] == "packets: {'lo': 0}", ran.stderr
        return ran

    return run


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_the_wall_stands(family: str) -> None:
    """A process that asks for a socket dies, its children too; a Unix socket is none."""
    ask = f"import socket; socket.socket(socket.{family})"
    child = f"import subprocess, sys; sys.exit(-subprocess.run([sys.executable, '-c', {ask!r}]).returncode)"
    assert behind_walls(["-c", ask], namespace=False).returncode == 128 + signal.SIGSYS
    assert behind_walls(["-c", child], namespace=False).returncode == signal.SIGSYS
    local = "import socket; socket.socketpair()"
    assert behind_walls(["-c", local], namespace=False).returncode == 0


def test_there_is_no_interface() -> None:
    ran = behind_walls(["-c", "import socket; print([name for _, name in socket.if_nameindex()])"])
    if ran.returncode == NOT_PERMITTED:
        pytest.skip("network namespaces are not permitted here")
    assert (ran.returncode, ran.stdout) == (0, "['lo']\n"), ran.stderr


QUESTION = "What is the capital of France?"
QUICK = ["--no-think", "--temp", "0", "--threads", "1"]


def test_run(demo_gguf: Path, walled: Walled) -> None:
    ran = walled("run", demo_gguf, QUESTION, *QUICK)
    assert (ran.returncode, ran.stdout) == (0, "The capital of France is Paris.\n")
    offloaded = walled("run", demo_gguf, QUESTION, *QUICK, "--offload", "on")
    assert offloaded.stdout == ran.stdout


def test_chat(demo_gguf: Path, walled: Walled) -> None:
    ran = walled("chat", demo_gguf, *QUICK, text=f"{QUESTION}\n")
    assert (ran.returncode, ran.stdout) == (0, "The capital of France is Paris.\n")


def test_batch(demo_gguf: Path, walled: Walled, tmp_path: Path) -> None:
    lines, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines.write_text("".join(json.dumps({"prompt": QUESTION}) + "\n" for _ in range(2)))
    assert walled("batch", demo_gguf, lines, "-o", out, *QUICK).returncode == 0
    assert out.read_text().count("Paris") == 2


def test_batch_asks_for_a_socket_with_a_server_only(walled: Walled, tmp_path: Path) -> None:
    """The wall kills it: that it stands in `test_batch` without --server is worth something."""
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"prompt": "x"}\n')
    words = ["-m", "qwenctl", "batch", lines, "-o", tmp_path / "out.jsonl", "--server", "http://127.0.0.1:9"]
    assert behind_walls(words, namespace=False).returncode == 128 + signal.SIGSYS


def test_convert(demo_folder: Path, walled: Walled, tmp_path: Path) -> None:
    ran = walled("convert", demo_folder, tmp_path / "demo.gguf", "--type", "q8_0")
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (0, str(tmp_path / "demo.gguf"))


@pytest.mark.skipif("plan" not in COMMANDS, reason="there is no command plan")
def test_plan(demo_gguf: Path, walled: Walled) -> None:
    assert walled("plan", demo_gguf).returncode == 0
