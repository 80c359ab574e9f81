"""Rates are measured once a machine and shape, kept if they can be, and measured again if what was kept is no use."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quant.gguf_read import read_gguf
from qwenctl.moe.calibration import Calibration, CalibrationKey, DiskRate, ExpertRate, stored_calibrations
from qwenctl.moe.disk_speed import DiskSpeed
from qwenctl.moe.expert_map import ExpertMap, read_expert_map
from qwenctl.moe.machine_memory import MachineMemory
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services import calibrate
from qwenctl.services.calibrate import calibrated, key_of
from qwenctl.services.engine_messages import decode, frame_of, read_frame
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.expert_offload import open_ggml
from qwenctl.units import GIB, MIB

RATES = (ExpertRate("Q4_K", "plain", "id", 1, 31e9),)
DISK = (DiskRate(4, 2e9),)
GGML: Any = object()  # handed on


class Measured:
    """What was asked to be measured, and what it is to answer."""

    def __init__(self) -> None:
        self.rates: tuple[ExpertRate, ...] = RATES
        self.past_cache = True
        self.available_bytes = 8 * GIB
        self.experts: list[dict[str, Any]] = []
        self.disks: list[dict[str, Any]] = []

    def measure_experts(self, ggml: object, experts: ExpertMap, n_threads: int, **more: Any) -> Any:
        self.experts.append({"n_threads": n_threads, **more})
        return self.rates

    def measure_disk(self, path: Path, **more: Any) -> DiskSpeed:
        self.disks.append({"path": path, **more})
        return DiskSpeed(more["slice_bytes"], self.past_cache, DISK)

    def machine_memory(self) -> MachineMemory:
        return MachineMemory(self.available_bytes, 0, 16 * GIB)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    made = Measured()
    for name in ("measure_experts", "measure_disk", "machine_memory"):
        monkeypatch.setattr(calibrate, name, getattr(made, name))
    return made


@pytest.fixture(scope="module")
def experts(demo_gguf: Path) -> ExpertMap:
    found = read_expert_map(read_gguf(demo_gguf))
    assert found is not None
    return found


def test_the_second_time_nothing_is_measured(measured: Measured, experts: ExpertMap, tmp_path: Path) -> None:
    first = calibrated(experts, GGML, tmp_path, 2)
    assert first == Calibration(key_of(experts, 2), RATES, DISK)
    assert calibrated(experts, GGML, tmp_path, 2) == first
    assert (len(measured.experts), len(measured.disks)) == (1, 1)
    assert stored_calibrations(tmp_path) == (first,)


def test_other_threads_are_another_matter(measured: Measured, experts: ExpertMap, tmp_path: Path) -> None:
    for n_threads in (2, 3, 2, 3):
        calibrated(experts, GGML, tmp_path, n_threads)
    assert [asked["n_threads"] for asked in measured.experts] == [2, 3]


def test_measured_again_on_request(measured: Measured, experts: ExpertMap, tmp_path: Path) -> None:
    calibrated(experts, GGML, tmp_path, 2)
    measured.rates = (replace(RATES[0], macs_s=40e9),)
    again = calibrated(experts, GGML, tmp_path, 2, again=True)
    assert again.experts == measured.rates
    assert calibrated(experts, GGML, tmp_path, 2) == again


@pytest.mark.parametrize("data", [b"", b"{", b'{"format": 1}', b"\xff"])
def test_a_damaged_file_is_measured_again(measured: Measured, experts: ExpertMap, tmp_path: Path, data: bytes) -> None:
    made = calibrated(experts, GGML, tmp_path, 2)
    (path,) = (tmp_path / "calibration").iterdir()
    path.write_bytes(data)
    assert calibrated(experts, GGML, tmp_path, 2) == made
    assert calibrated(experts, GGML, tmp_path, 2) == made
    assert len(measured.experts) == 2


def test_a_folder_that_cannot_be_written_is_no_obstacle(measured: Measured, experts: ExpertMap, tmp_path: Path) -> None:
    (tmp_path / "calibration").write_text("a file in the folder's place")
    assert calibrated(experts, GGML, tmp_path, 2).experts == RATES
    assert calibrated(experts, GGML, tmp_path, 2).experts == RATES
    assert len(measured.experts) == 2


def test_a_busy_machine_is_tried_again_after_ten_minutes(
    measured: Measured, experts: ExpertMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured.rates = ()
    nothing = Calibration(key_of(experts, 2))
    assert calibrated(experts, GGML, tmp_path, 2) == nothing
    assert calibrated(experts, GGML, tmp_path, 2) == nothing
    assert (len(measured.experts), len(measured.disks)) == (1, 0)
    measured.rates = RATES
    now = time.time()
    monkeypatch.setattr(calibrate.time, "time", lambda: now + 590)
    assert calibrated(experts, GGML, tmp_path, 2) == nothing
    monkeypatch.setattr(calibrate.time, "time", lambda: now + 610)
    assert calibrated(experts, GGML, tmp_path, 2).experts == RATES
    assert len(measured.experts) == 2


def test_rates_of_the_page_cache_are_none_of_the_disk(measured: Measured, experts: ExpertMap, tmp_path: Path) -> None:
    measured.past_cache = False
    assert calibrated(experts, GGML, tmp_path, 2).disk == ()


def test_a_tenth_of_the_memory_and_no_more_than_is_useful(
    measured: Measured, experts: ExpertMap, tmp_path: Path
) -> None:
    for available, taken in ((8 * GIB, 128 * MIB), (GIB, GIB // 10), (200 * MIB, 20 * MIB)):
        measured.available_bytes = available
        calibrated(experts, GGML, tmp_path, 2, again=True)
        assert measured.experts[-1]["memory_bytes"] == taken
    measured.available_bytes = 100 * MIB
    assert calibrated(experts, GGML, tmp_path, 2, again=True) == Calibration(key_of(experts, 2))
    assert len(measured.experts) == 3


def test_deep_queues_only_where_their_memory_is(measured: Measured, experts: ExpertMap, tmp_path: Path) -> None:
    large = replace(experts.layers[0].tensors[0], expert_bytes=3 * MIB)
    layer = replace(experts.layers[0], tensors=(large, *experts.layers[0].tensors[1:]))
    wide = replace(experts, layers=(layer,))
    for available, depths in ((8 * GIB, (1, 2, 4, 8, 16)), (400 * MIB, (1, 2, 4)), (170 * MIB, (1, 2))):
        measured.available_bytes = available
        calibrated(wide, GGML, tmp_path, 2, again=True)
        assert measured.disks[-1]["depths"] == depths
        assert measured.disks[-1]["slice_bytes"] == 3 * MIB


def test_small_models_take_less_time(measured: Measured, experts: ExpertMap, tmp_path: Path) -> None:
    calibrated(experts, GGML, tmp_path, 2)
    large = replace(experts, layers=experts.layers * 1000)
    calibrated(large, GGML, tmp_path, 2, again=True)
    small, whole = measured.experts
    assert whole["budget_s"] == 2.0
    assert small["budget_s"] <= 0.1
    assert [asked["budget_s"] for asked in measured.disks] == pytest.approx([small["budget_s"] / 2.0, 1.0])


def test_the_file_with_the_most_experts_is_read(measured: Measured, experts: ExpertMap, tmp_path: Path) -> None:
    first, *others = experts.layers
    moved = [replace(one, tensors=tuple(replace(t, file=1) for t in one.tensors)) for one in others]
    other = tmp_path / "model-00002-of-00002.gguf"
    calibrated(replace(experts, paths=(*experts.paths, other), layers=(first, *moved)), GGML, tmp_path, 2)
    assert [asked["path"] for asked in measured.disks] == [other]


def test_kinds_of_layers_are_part_of_the_key(experts: ExpertMap) -> None:
    key = key_of(experts, 2)
    assert isinstance(key, CalibrationKey)
    assert key.shape == "Q4_K+Q4_K/Q6_K 256x256x16"
    assert key_of(replace(experts, layers=experts.layers[-1:]), 2).shape != key.shape


def test_this_machine(experts: ExpertMap, tmp_path: Path) -> None:
    """Nothing replaced; whether the machine is quiet enough for rates is its own affair."""
    made = calibrated(experts, open_ggml(), tmp_path, 1)
    assert stored_calibrations(tmp_path) == (made,)
    assert all(one.macs_s > 0 for one in made.experts)
    assert all(one.bytes_s > 0 for one in made.disk)


def test_the_folder_travels_to_the_engine_s_process(tmp_path: Path) -> None:
    options = EngineOptions(offload=OffloadOptions(calibration_dir=tmp_path / "Zwischenspeicher für alles"))
    frame = frame_of({"options": options})
    position = 0

    def read(n_bytes: int) -> bytes:
        nonlocal position
        position += n_bytes
        return frame[position - n_bytes : position]

    message = read_frame(read)
    assert message is not None
    assert decode(EngineOptions, message["options"]) == options
