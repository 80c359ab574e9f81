"""`qwenctl worker` as a process: how it starts and ends, and what its end and its hanging do to who uses it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.worker_bench.workers import Ended, Worker, ended, is_clear, started
from tests.cli.conftest import Ran

pytestmark = pytest.mark.usefixtures("shared_cache")
QUESTION = ["What is the capital of France?", "--no-think", "--temp", "0", "--threads", "1"]
ANSWER = "The capital of France is Paris.\n"


@pytest.fixture(scope="module")
def two() -> Iterator[tuple[Worker, Worker]]:
    workers = Worker("1GiB"), Worker("1GiB")
    yield workers
    assert [worker.end() for worker in workers] == [0, 0]


@pytest.fixture
def rpc(two: tuple[Worker, Worker]) -> list[str]:
    return ["--rpc", ",".join(worker.address for worker in two)]


@pytest.fixture
def endless(demo_gguf: Path, tmp_path: Path, rpc: list[str]) -> list[str]:
    """An answer that takes minutes."""
    grammar = tmp_path / "endless.gbnf"
    grammar.write_text('root ::= "word " root')
    words = ["Tell me a story", "--grammar", str(grammar), "--max-tokens", "8000", "--threads", "1", "-q"]
    return ["run", str(demo_gguf), *words, *rpc]


def test_a_model_on_two_workers_answers(demo_gguf: Path, rpc: list[str], qwenctl: Callable[..., Ran]) -> None:
    ran = qwenctl("run", demo_gguf, *QUESTION, *rpc)
    assert (ran.code, ran.stdout) == (0, ANSWER)
    assert ran.stderr.startswith("layers: ")
    assert ran.stderr.count("on RPC") == 2
    one = qwenctl("run", demo_gguf, *QUESTION, *rpc, "--devices", "RPC1", "--kv-type", "q8_0,f16")
    assert one == (0, ANSWER, "")


def disturbed(words: list[str], disturb: Callable[[], object], after_s: float | None = None) -> Ended:
    """Disturb a command after some time, or else when its answer has begun."""
    process = started(words)
    if after_s is None:
        assert process.stdout is not None
        assert process.stdout.read(5) == "word "
    else:
        time.sleep(after_s)
    disturb()
    return ended(process, time.monotonic())


def test_killed_workers_end_in_clear_errors(endless: list[str], two: tuple[Worker, Worker]) -> None:
    generator = random.Random(7)
    for after_s in (0.5, 1.0, None):
        victim = generator.choice(two)
        how = disturbed(endless, victim.kill, after_s)
        assert is_clear(how, victim.address), how
        victim.start()


def test_a_worker_whose_computing_process_is_stopped(endless: list[str], two: tuple[Worker, Worker]) -> None:
    how = disturbed(endless, two[0].stop_computing)
    two[0].go_on()
    assert is_clear(how, two[0].address), how


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.6, None])
def test_a_worker_that_hangs(endless: list[str], two: tuple[Worker, Worker], after_s: float | None) -> None:
    how = disturbed(endless, two[1].stop, after_s)
    two[1].go_on()
    assert is_clear(how, two[1].address), how
    assert how.seconds < 10  # the promise itself: 5 s of silence, and what the exit takes


def test_a_client_that_is_killed_leaves_a_free_worker(
    endless: list[str], demo_gguf: Path, rpc: list[str], qwenctl: Callable[..., Ran]
) -> None:
    process = started(endless)
    assert process.stdout is not None
    assert process.stdout.read(5) == "word "
    process.kill()
    process.communicate()
    assert qwenctl("run", demo_gguf, *QUESTION, *rpc).stdout == ANSWER


def test_a_batch_goes_on_after_a_lost_worker(
    demo_gguf: Path, tmp_path: Path, two: tuple[Worker, Worker], rpc: list[str], qwenctl: Callable[..., Ran]
) -> None:
    lines = [json.dumps({"custom_id": f"q{n}", "prompt": f"Count to {n}."}) for n in range(12)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out.jsonl"
    words = ["batch", demo_gguf, tmp_path / "in.jsonl", "-o", out, "--parallel", "2", "--threads", "1", "--temp", "0"]
    words += ["--max-tokens", "24", "--ctx", "512", *rpc]
    process = started(list(map(str, words)))
    while not out.exists() or out.read_text().count("\n") < 3:
        time.sleep(0.01)
        assert process.poll() is None, process.communicate()
    two[0].kill()
    how = ended(process, time.monotonic())
    two[0].start()
    assert is_clear(how, two[0].address), how
    kept = {json.loads(line)["custom_id"] for line in out.read_text().splitlines()}
    assert 3 <= len(kept) < 12
    ran = qwenctl(*words)
    assert ran.code == 0, ran.stderr
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert {record["custom_id"] for record in records} == {f"q{n}" for n in range(12)}


# --- the command -----------------------------------------------------------------------------------------------------


def test_an_address_that_others_reach_needs_a_flag(qwenctl: Callable[..., Ran]) -> None:
    ran = qwenctl("worker", "--listen", "0.0.0.0:50052")
    assert (ran.code, ran.stdout) == (2, "")
    assert "no password and no encryption" in ran.stderr
    assert "hint: tunnel it: ssh -L 50052:127.0.0.1:50052 HOST; or add --allow-remote" in ran.stderr


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["--listen", "nowhere"], 2, "'nowhere' is no address"),
        (["--listen", "127.0.0.1:70000"], 2, "is no address"),
        (["--devices", "none"], 2, "serves nothing"),
        (["--devices", "CUDA9", "--listen", "127.0.0.1:0"], 2, "no device CUDA9; there are: CPU"),
        (["--memory", "1MiB"], 2, "is not between 64.0 MiB"),
    ],
)
def test_what_makes_no_sense(words: list[str], code: int, error: str, qwenctl: Callable[..., Ran]) -> None:
    ran = qwenctl("worker", *words)
    assert (ran.code, ran.stdout) == (code, "")
    assert error in ran.stderr


def test_an_address_in_use(two: tuple[Worker, Worker], qwenctl: Callable[..., Ran]) -> None:
    ran = qwenctl("worker", "--listen", two[0].address)
    assert (ran.code, ran.stdout) == (1, "")
    assert f"error: cannot listen at {two[0].address}: Address already in use" in ran.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_with_all_that_it_started(number: int) -> None:
    words = [sys.executable, "-m", "qwenctl", "worker", "--listen", "0.0.0.0:0", "--allow-remote"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        children = Worker.children(_Of(process))
        assert children
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert said.splitlines()[0].startswith("warning: whoever reaches 0.0.0.0:0 can use this worker")
    assert said.splitlines()[-1] == "ended"
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(address.split(":")[1])), 5)


def test_a_killed_front_takes_the_computing_process_with_it() -> None:
    worker = Worker("1GiB")
    children = worker.children()
    worker.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert os.getpid() not in children


class _Of:
    """Enough of a Worker for its `children`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
