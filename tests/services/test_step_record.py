"""What steps took, kept in a file: merged, bounded, and no harm when it is damaged."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from qwenctl.moe.machine_memory import DeviceMemory
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.engine_options import EngineOptions, StepTimesOptions
from qwenctl.services.parallel_rule import StepTime
from qwenctl.services.step_record import StepFile, StepRecord
from qwenctl.units import GIB

RUN = {1: StepTime(100, 0.001), 16: StepTime(200, 0.006)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return tmp_path / "model.gguf"


def file_of(model: Path, options: EngineOptions | None = None, gpus: tuple[DeviceMemory, ...] = ()) -> StepFile:
    options = replace(options or EngineOptions(), step_times=StepTimesOptions(model.parent / "cache"))
    found = StepFile.of(model, options, gpus)
    assert found is not None
    return found


def test_runs_and_choices_add_up(model: Path) -> None:
    file = file_of(model)
    assert file.read() == StepRecord()
    file.update(lambda record: record.with_run(RUN))
    file.update(lambda record: record.with_choice("batch", 32))
    assert file.read() == StepRecord(RUN, {"batch": 32})
    file.update(lambda record: record.with_run({16: StepTime(100, 0.008), 32: StepTime(8, 0.01)}))
    expected = {1: StepTime(50, 0.001), 16: StepTime(200, pytest.approx(0.0065)), 32: StepTime(8, 0.01)}
    assert (file.read().steps, file.read().chosen) == (expected, {"batch": 32})
    busy = StepRecord(RUN).with_run({16: StepTime(200, 0.6)}).steps[16]
    assert busy.seconds == pytest.approx(0.0075)  # a quarter more, however busy the machine was
    for _ in range(20):
        file.update(lambda record: record.with_run(RUN))
    kept = file.read().steps
    assert kept[32] == StepTime(1, 0.01)  # known, and of hardly any weight
    assert kept[16].n_steps < 2 * RUN[16].n_steps
    assert kept[16].seconds == 0.006  # it was busy meanwhile


def test_it_is_private_and_nothing_lies_beside_it(model: Path) -> None:
    file = file_of(model)
    file.update(lambda record: record.with_run(RUN))
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert list(file.path.parent.iterdir()) == [file.path]


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(n_threads=61),
        EngineOptions(cache_type_k="q8_0"),
        EngineOptions(devices=()),
        EngineOptions(n_gpu_layers=0),
        EngineOptions(n_cells=8192),
        EngineOptions(offload=OffloadOptions("on", ram_bytes=GIB)),
    ],
)
def test_another_way_to_open_a_model_is_another_record(model: Path, options: EngineOptions) -> None:
    assert file_of(model, options).path != file_of(model).path


def test_other_devices_or_another_file_are_another_record(model: Path) -> None:
    before = file_of(model).path
    assert file_of(model, None, (DeviceMemory("CUDA0", 1, 2),)).path != before
    assert (
        file_of(model, None, (DeviceMemory("CUDA0", 1, 2),)).path
        == file_of(model, None, (DeviceMemory("CUDA0", 0, 2),)).path
    )
    model.write_bytes(b"GGUF, converted again")
    assert file_of(model).path != before


def test_lengths_and_numbers_of_sequences_are_of_no_account(model: Path) -> None:
    for options in (EngineOptions(n_ctx=512), EngineOptions(n_parallel=16), EngineOptions(trace_file="x")):
        assert file_of(model, options).path == file_of(model).path


def test_nothing_is_kept_where_nobody_asks_or_other_machines_compute(model: Path) -> None:
    assert StepFile.of(model, EngineOptions(), ()) is None
    kept = EngineOptions(step_times=StepTimesOptions(model.parent))
    assert StepFile.of(model, replace(kept, rpc=("localhost:50052",)), ()) is None
    assert StepFile.of(model / "none", kept, ()) is None


@pytest.mark.parametrize(
    "change",
    [
        {"steps": {"16": [5, -1.0]}},
        {"steps": {"16": [5, "0.1"], "x": [1, 1.0]}},
        {"steps": {"16": [5]}},
        {"steps": {"16": [5.5, 0.1]}},
        {"steps": {"16": [0, 0.1]}},
        {"steps": {"400": [5, 0.1]}},
        {"steps": {"16": [5, float("inf")]}},
        {"steps": {"16": [5, 10**400]}},
        {"steps": [1, 2]},
        {"chosen": {"batch": 0}},
        {"chosen": {"batch": True}},
        {"chosen": None},
        {"cpu": "another one"},
    ],
)
def test_a_record_that_makes_no_sense_is_empty(model: Path, change: dict[str, object]) -> None:
    file = file_of(model)
    file.update(lambda record: record.with_run(RUN))
    file.path.write_text(json.dumps(json.loads(file.path.read_text()) | change))
    assert file.read() == StepRecord()
    file.update(lambda record: record.with_run(RUN))
    assert file.read() == StepRecord(RUN)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000, b" " * 300_000]
)
def test_a_damaged_file_is_empty(model: Path, data: bytes) -> None:
    file = file_of(model)
    file.path.parent.mkdir(parents=True)
    file.path.write_bytes(data)
    assert file.read() == StepRecord()


def test_what_makes_no_sense_or_cannot_be_written_is_not(model: Path) -> None:
    file = file_of(model)
    file.update(lambda record: record.with_run(RUN))
    file.update(lambda record: record.with_run({2: StepTime(8, 0.0)}))
    assert file.read() == StepRecord(RUN)
    (model.parent / "file").write_text("")
    nowhere = StepFile.of(model, EngineOptions(step_times=StepTimesOptions(model.parent / "file")), ())
    assert nowhere is not None
    nowhere.update(lambda record: record.with_run(RUN))
    assert nowhere.read() == StepRecord()


def test_the_oldest_go(model: Path) -> None:
    for age in range(70):
        file = file_of(model, EngineOptions(n_threads=1 + age))
        file.update(lambda record: record.with_run(RUN))
        os.utime(file.path, ns=(0, 10**9 * age))
    last = file_of(model, EngineOptions(n_threads=100))
    last.update(lambda record: record.with_run(RUN))
    assert len(list(last.path.parent.iterdir())) == 64
    assert [file_of(model, EngineOptions(n_threads=n)).read() == StepRecord() for n in (1, 7, 8, 100)] == [
        True,
        True,
        False,
        False,
    ]


def test_several_at_once_leave_a_whole_record(model: Path) -> None:
    file, wrong = file_of(model), []

    def write() -> None:
        for _ in range(20):
            file.update(lambda record: record.with_run(RUN))
            if set(file.read().steps) != set(RUN):
                wrong.append(file.path.read_bytes())

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert list(file.path.parent.iterdir()) == [file.path]
