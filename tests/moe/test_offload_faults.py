"""Faults while experts are read: one error that names the expert, no token after it, and a next request that is right.

The demo with as many slots as a token uses, so that every step reads. Faults come from a read that fails, and from a
file that is cut off, written to, replaced or removed while it is in use.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwenctl.core import Finished, FinishReason, GenerationRequest, SamplingParams, TextDelta
from qwenctl.errors import ExpertReadFailed, InvalidRequest, ModelLoadFailed
from qwenctl.moe.expert_reader import ExpertReader
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.engine import Engine
from tests.moe.offload_runs import offloaded, stock

QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
N_TOKENS = 8
Pread = Callable[[int, Sequence[Any], int], int]


def _no_disk(fd: int, buffers: Sequence[Any], offset: int) -> int:
    raise OSError(errno.EIO, "Input/output error")


def _half(fd: int, buffers: Sequence[Any], offset: int) -> int:
    return os.preadv(fd, buffers, offset) // 2


def _nothing(fd: int, buffers: Sequence[Any], offset: int) -> int:
    return 0


class Disk:
    """os.preadv with a fault at the calls from `first` to `last`, counted over all threads from `watch` on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.slow_s = 0.0
        self.watch(-1, -1)

    def watch(self, first: int, last: int, fault: Pread = _no_disk) -> None:
        """Count from zero, and let these calls fail."""
        with self._lock:
            self.n_calls, self._faults, self._fault = 0, range(first, last + 1), fault

    @property
    def has_failed(self) -> bool:
        """Whether a call has failed since `watch`."""
        return self.n_calls > self._faults.start >= 0

    def __call__(self, fd: int, buffers: Sequence[Any], offset: int) -> int:
        with self._lock:
            fails = self.n_calls in self._faults
            self.n_calls += 1
        if self.slow_s:
            time.sleep(self.slow_s)
        return self._fault(fd, buffers, offset) if fails else os.preadv(fd, buffers, offset)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Stand between every reader that is made and its files."""
    made = Disk()
    monkeypatch.setitem(ExpertReader.__init__.__kwdefaults__, "pread", made)
    return made


@pytest.fixture
def copy(demo_gguf: Path, tmp_path: Path) -> Path:
    """Return a copy of the demo that a test may damage, and whose time of change is long ago."""
    path = Path(shutil.copy(demo_gguf, tmp_path / "model.gguf"))
    os.utime(path, ns=(0, 10**18))
    return path


@pytest.fixture(scope="module")
def answer(demo_gguf: Path) -> str:
    """Return what stock llama.cpp says."""
    with Engine.open(demo_gguf, stock()) as engine:
        return say(engine)


@pytest.fixture
def engine(demo_gguf: Path, disk: Disk) -> Iterator[Engine]:
    with Engine.open(demo_gguf, offloaded(4)) as opened:
        yield opened
        opened.check_integrity()


def request(engine: Engine, name: str = "one", n_tokens: int = N_TOKENS) -> GenerationRequest:
    return GenerationRequest(name, engine.tokenize(QUESTION), SamplingParams(temperature=0), n_tokens)


def say(engine: Engine) -> str:
    """Return the whole answer, or raise."""
    return "".join(event.text for event in engine.generate(request(engine)) if isinstance(event, TextDelta))


def fails(engine: Engine, on_text: Callable[[int], None] = lambda n: None) -> tuple[ExpertReadFailed, str]:
    """Return the error of a request that must fail, and what was said before; `on_text` is told of the n-th piece."""
    said: list[str] = []
    try:
        for event in engine.generate(request(engine)):
            assert isinstance(event, TextDelta)
            said.append(event.text)
            on_text(len(said))
    except ExpertReadFailed as error:
        return error, "".join(said)
    raise AssertionError(f"no error after {said}")


# Reads that fail


@pytest.mark.parametrize("fault", [_no_disk, _half, _nothing])
def test_a_fault_at_any_read_ends_the_request_and_the_next_one_is_right(
    engine: Engine, disk: Disk, answer: str, fault: Pread
) -> None:
    assert say(engine) == answer
    disk.watch(-1, -1)
    assert say(engine) == answer
    n_calls = disk.n_calls
    assert n_calls > 100
    for call in range(0, n_calls - 40, 23):  # what is read in which order, and hence how much, differs a little
        disk.watch(call, call, fault)
        error, said = fails(engine)
        assert disk.has_failed
        assert error.message.startswith("expert ")
        assert "\n" not in error.message
        assert error.hint
        assert answer.startswith(said)
        assert said != answer
        disk.watch(-1, -1)
        assert say(engine) == answer
        engine._model._offload.session.check_integrity()


@pytest.mark.parametrize("n_io_threads", [1, 4])
@pytest.mark.parametrize("operation", ["id", "expert"])
def test_many_faults_at_once_leave_nothing_behind(
    demo_gguf: Path, disk: Disk, answer: str, n_io_threads: int, operation: str
) -> None:
    """A broken disk fails every read of a step; when it works again, so does the engine."""
    with Engine.open(demo_gguf, offloaded(4, n_io_threads=n_io_threads, operation=operation)) as engine:
        assert say(engine) == answer
        for first in (0, 5, 30, 90):
            disk.watch(first, 1 << 30)
            for _ in range(2):
                fails(engine)
            disk.watch(-1, -1)
            assert say(engine) == answer
            engine._model._offload.session.check_integrity()


def test_a_fault_in_a_batch_of_requests(demo_gguf: Path, disk: Disk, answer: str) -> None:
    """The step raises and loses nobody: whoever steps on, when the disk works again, gets every answer."""
    with Engine.open(demo_gguf, offloaded(4, parallel=2)) as engine:
        for name in ("one", "two"):
            engine.submit(request(engine, name))
        disk.watch(130, 130)
        texts: dict[str, str] = {"one": "", "two": ""}
        reasons: list[FinishReason] = []
        n_errors = 0
        while engine.has_work and n_errors < 2:
            try:
                events = engine.step()
            except ExpertReadFailed:
                n_errors += 1
                continue
            for event in events:
                if isinstance(event, TextDelta):
                    texts[event.request_id] += event.text
                elif isinstance(event, Finished):
                    reasons.append(event.reason)
            engine.check_integrity()
        assert (n_errors, reasons) == (1, [FinishReason.LENGTH] * 2)
        assert texts == {"one": answer, "two": answer}


def test_a_file_that_cannot_be_read_from_the_start(demo_gguf: Path, disk: Disk) -> None:
    disk.watch(0, 1 << 30)
    with Engine.open(demo_gguf, offloaded(None)) as engine:
        error, said = fails(engine)
        assert "Input/output error" in error.message
        assert said == ""


# Files that change


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(1 << 16))


def _replace(path: Path) -> None:
    other = path.with_suffix(".new")
    shutil.copy(path, other)
    other.replace(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [(_truncate, "bytes"), (_overwrite, "written to"), (_replace, "replaced"), (Path.unlink, "is gone")],
)
@pytest.mark.parametrize("n_deltas", [0, 3])
def test_a_file_that_changes_while_the_model_is_in_use(
    copy: Path, answer: str, change: Callable[[Path], None], reason: str, n_deltas: int
) -> None:
    pieces: list[int] = []

    def on_text(n: int) -> None:
        pieces.append(n)
        if n == n_deltas:
            change(copy)

    with Engine.open(copy, offloaded(4)) as engine:
        assert say(engine) == answer
        if n_deltas == 0:
            change(copy)
        error, said = fails(engine, on_text)
        assert reason in error.message
        assert str(copy) in error.message
        assert answer.startswith(said)
        assert len(pieces) == n_deltas  # not one token after the change
        assert fails(engine)[1] == ""


def test_a_file_that_is_cut_off_before_it_is_opened(copy: Path) -> None:
    os.truncate(copy, copy.stat().st_size // 2)
    with pytest.raises(ModelLoadFailed, match="bounds") as caught:
        Engine.open(copy, offloaded(4))
    assert "\n" not in str(caught.value)


# Breaking off


def test_a_cancelled_request_leaves_nothing_behind(demo_gguf: Path, disk: Disk, answer: str) -> None:
    """Cancelled in the middle of a step whose reads are slow: what was on its way is no obstacle to the next step."""
    with Engine.open(demo_gguf, offloaded(4)) as engine:
        assert say(engine) == answer
        disk.slow_s = 0.01
        for after in (0.02, 0.05, 0.09, 0.13):
            engine.submit(request(engine))
            timer = threading.Timer(after, engine.cancel, ["one"])
            timer.start()
            events = []
            while engine.has_work:
                events += engine.step()
            timer.join()
            assert events[-1].reason is FinishReason.CANCELLED
            engine._model._offload.session.check_integrity()
        disk.slow_s = 0.0
        assert say(engine) == answer


def test_closing_while_reads_are_under_way(demo_gguf: Path, disk: Disk) -> None:
    disk.slow_s = 0.02
    before = {thread.name for thread in threading.enumerate()}
    engine = Engine.open(demo_gguf, offloaded(4))
    engine.submit(request(engine))
    closing = threading.Timer(0.1, engine.close)
    closing.start()
    while engine.has_work:
        engine.step()
    closing.join()
    assert {thread.name for thread in threading.enumerate()} == before


def test_two_models_with_offloaded_experts_in_one_process(demo_gguf: Path, answer: str) -> None:
    """Only one at a time: the second is refused, or goes on without, and the first is unharmed."""
    before = threading.active_count()
    with Engine.open(demo_gguf, offloaded(4)) as engine:
        with pytest.raises(InvalidRequest, match="another model with offloaded experts is open in this process"):
            Engine.open(demo_gguf, offloaded(4))
        auto = OffloadOptions(mode="auto", n_slots=4)
        with Engine.open(demo_gguf, replace(stock(), offload=auto)) as second:
            assert second.offload_stats() is None
            assert second.warnings == (
                "experts are not offloaded: another model with offloaded experts is open in this process",
            )
            assert say(second) == answer
        assert say(engine) == answer
    assert threading.active_count() == before
    with Engine.open(demo_gguf, offloaded(4)) as engine:
        assert say(engine) == answer
