"""`qwenctl run` on a model whose experts do not fit: its budget, its placement line, faults, Ctrl-C, a memory limit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Ran
from tests.moe.offload_runs import large_gguf

QWENCTL = [sys.executable, "-m", "qwenctl"]
GREEDY = ["--temp", "0", "--threads", "1"]
CGROUP = Path("/sys/fs/cgroup/memory")
pytestmark = [
    pytest.mark.usefixtures("shared_cache"),
    pytest.mark.skipif(sys.platform != "linux", reason="offloading is for Linux"),
]
Run = Callable[..., Ran]

# Loads so slowly that there is time for Ctrl-C: every read of the dense part says so and waits.
SLOW_LOADING = """
import os, sys, time
from qwenctl.cli.main import main
from qwenctl.moe import model_stream
read = model_stream.ModelStream._read_file
def slow(*arguments):
    os.write(2, b"loading\\n")
    time.sleep(0.05)
    return read(*arguments)
model_stream.ModelStream._read_file = slow
sys.exit(main())
"""


@pytest.fixture(scope="module")
def medium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 110 MB: 4 layers of 32 experts of 0.8 MiB, 8 used."""
    return large_gguf(tmp_path_factory.mktemp("medium") / "medium.gguf", n_layers=4, n_experts=32)


def test_a_budget_that_is_too_small_names_the_smallest_which_works(qwenctl_process: Run, medium: Path) -> None:
    ran = qwenctl_process("run", medium, "hi", *GREEDY, "--max-tokens", "3", "--ram", "64MiB")
    assert (ran.code, ran.stdout) == (3, "")
    error, hint = ran.stderr.splitlines()
    assert re.match(r"error: the model needs at least \d+ MiB of RAM .*--ram is 64", error)
    smallest = int(re.match(r"hint: use --ram (\d+)MiB or more", hint)[1])
    ran = qwenctl_process("run", medium, "hi", *GREEDY, "--max-tokens", "3", "--ram", f"{smallest - 1}MiB")
    assert ran.code == 3
    ran = qwenctl_process("run", medium, "hi", *GREEDY, "--max-tokens", "3", "--ram", f"{smallest}MiB", "--json")
    assert ran.code == 0
    assert re.search(r"^experts: \d+ of 32 a layer in .* the others read from disk;", ran.stderr, re.MULTILINE)
    offload = json.loads(ran.stdout)["offload"]
    assert offload["placement"]["budget_bytes"] == smallest << 20
    assert offload["placement"]["free_bytes"] >= 0
    assert offload["evicted"] + offload["streamed"] > 0


def test_the_demo_says_the_same_offloaded_and_where_its_experts_are(qwenctl: Run, demo_gguf: Path) -> None:
    asked = ["run", demo_gguf, "What is the capital of France?", "--no-think", *GREEDY, "--max-tokens", "8"]
    plain = qwenctl(*asked)
    offloaded = qwenctl(*asked, "--offload", "on")
    assert offloaded.stdout == plain.stdout == "The capital of France is Paris.\n"
    assert plain.stderr == ""
    assert offloaded.stderr.startswith("experts: all 16 a layer in ")
    assert qwenctl(*asked, "--offload", "off") == plain


def _running(path: Path, *words: str, command: list[str] = QWENCTL) -> subprocess.Popen[bytes]:
    asked = [*command, "run", str(path), "hi", *GREEDY, "--max-tokens", "1000", *words]
    return subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


@pytest.fixture
def least(qwenctl_process: Run, medium: Path) -> str:
    """The smallest budget for `medium`."""
    return re.search(r"use --ram (\d+MiB)", qwenctl_process("run", medium, "hi", "--ram", "32MiB").stderr)[1]


@pytest.mark.parametrize("change", ["truncated", "replaced"])
def test_a_file_that_changes_is_an_error_in_one_line(medium: Path, least: str, tmp_path: Path, change: str) -> None:
    path = Path(shutil.copy(medium, tmp_path / "model.gguf"))
    process = _running(path, "--ram", least)
    assert process.stdout.read(1)
    if change == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    else:
        Path(shutil.copy(medium, tmp_path / "other.gguf")).replace(path)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    errors = [line for line in stderr.decode().splitlines() if not line.startswith("experts: ")]
    assert re.fullmatch(rf"error: expert \d+ of layer \d: {path} at byte [\d,]+: .*", errors[0])
    assert [line.split(":")[0] for line in errors] == ["error", "hint"]


def test_ctrl_c_while_generating(medium: Path, least: str) -> None:
    process = _running(medium, "--ram", least)
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr


def test_ctrl_c_while_loading(medium: Path, least: str) -> None:
    process = _running(medium, "--ram", least, command=[sys.executable, "-c", SLOW_LOADING])
    while (line := process.stderr.readline()) != b"loading\n":
        assert line, "ended before it loaded"
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT  # which shells call 130
    assert stdout == b""
    assert set(stderr.splitlines()) <= {b"loading"}


@pytest.fixture
def half_of_it(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A model of 0.6 GiB, and a control group with half of that."""
    if not os.access(CGROUP, os.W_OK):
        pytest.skip("no control group of version 1 can be made here")
    path = large_gguf(tmp_path / "large.gguf")
    group = CGROUP / f"qwenctl-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(path.stat().st_size // 2))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    yield path, group
    group.rmdir()
    path.unlink()


def test_half_of_the_models_size_is_enough(half_of_it: tuple[Path, Path]) -> None:
    """Under a limit of the kernel's: nobody is killed, and the line says where the experts are."""
    path, group = half_of_it
    words = [*QWENCTL, "run", str(path), "hi", *GREEDY, "--max-tokens", "6", "--json"]
    script = f'echo $$ > {group}/cgroup.procs; exec "$@"'
    ran = subprocess.run(["sh", "-c", script, "sh", *words], capture_output=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert re.search(rb"^experts: [\d-]+ of 64 a layer in .* the others read from disk; dense part", ran.stderr)
    document = json.loads(ran.stdout)
    assert document["usage"]["generated_tokens"] == 6
    assert document["offload"]["placement"]["budget_bytes"] <= path.stat().st_size // 2
    assert document["offload"]["evicted"] > 0
    assert int((group / "memory.max_usage_in_bytes").read_text()) <= path.stat().st_size // 2
