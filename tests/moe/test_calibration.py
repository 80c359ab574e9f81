"""Measured rates: chosen from, kept, and read back only where the file is what was written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwenctl.moe.calibration import (
    Calibration,
    CalibrationKey,
    DiskRate,
    ExpertRate,
    load_calibration,
    shape_name,
    store_calibration,
    stored_at_s,
    stored_calibrations,
)
from qwenctl.moe.prefill_rates import PrefillRates
from qwenctl.services.calibration_key import calibration_key, cpu_name

KEY = CalibrationKey("Xeon 42", 2, "0.3.36 1681496", shape_name(("Q6_K", "Q4_K", "Q4_K"), 2048, 768, 128), "/")
MEASURED = Calibration(
    KEY,
    (
        ExpertRate("Q4_K", "plain", "id", 1, 31e9),
        ExpertRate("Q4_K", "plain", "id", 512, 125e9),
        ExpertRate("Q4_K", "repack", "id", 1, 41e9),
        ExpertRate("Q4_K", "repack", "id", 512, 65e9),
        ExpertRate("Q4_K", "amx", "expert", 512, 149e9),
        ExpertRate("Q4_K", "amx", "expert", 1, 51e9),
        ExpertRate("Q4_K", "plain", "expert", 512, 80e9),
    ),
    (DiskRate(1, 0.9e9), DiskRate(4, 2.0e9), DiskRate(8, 2.05e9)),
)


def test_what_was_stored_is_read_back(tmp_path: Path) -> None:
    assert load_calibration(KEY, tmp_path) is None
    assert store_calibration(MEASURED, tmp_path)
    assert load_calibration(KEY, tmp_path) == MEASURED
    assert stored_calibrations(tmp_path) == (MEASURED,)
    assert [path.suffix for path in (tmp_path / "calibration").iterdir()] == [".json"]


def test_when_it_was_stored(tmp_path: Path) -> None:
    assert stored_at_s(KEY, tmp_path) == 0
    store_calibration(MEASURED, tmp_path)
    (path,) = (tmp_path / "calibration").iterdir()
    os.utime(path, (1e9, 1e9))
    assert stored_at_s(KEY, tmp_path) == 1e9
    assert stored_at_s(replace(KEY, n_threads=3), tmp_path) == 0


def test_a_newer_measurement_takes_the_place_of_the_older(tmp_path: Path) -> None:
    store_calibration(MEASURED, tmp_path)
    newer = replace(MEASURED, disk=(DiskRate(1, 5e9),))
    store_calibration(newer, tmp_path)
    assert stored_calibrations(tmp_path) == (newer,)


@pytest.mark.parametrize(
    "changes",
    [{"cpu": "Xeon 43"}, {"n_threads": 4}, {"library": "0.3.37"}, {"shape": "Q4_K 4096x1536x128"}, {"storage": "/mnt"}],
)
def test_another_machine_build_or_shape_has_none(tmp_path: Path, changes: dict[str, Any]) -> None:
    store_calibration(MEASURED, tmp_path)
    assert load_calibration(replace(KEY, **changes), tmp_path) is None


def _set(*path: str | int, value: object) -> Callable[[dict[str, Any]], object]:
    def change(document: dict[str, Any]) -> object:
        inner: Any = document
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        return document

    return change


@pytest.mark.parametrize(
    "damage",
    [
        _set("format", value=2),
        _set("key", "cpu", value="another"),
        _set("key", value=None),
        _set("experts", value=None),
        _set("experts", 0, "macs_s", value="fast"),
        _set("experts", 0, "macs_s", value=0),
        _set("experts", 0, "macs_s", value=float("nan")),
        _set("experts", 0, "n_tokens", value=1.5),
        _set("experts", 0, "n_tokens", value=True),
        _set("experts", 0, "unknown", value=1),
        _set("disk", 0, value={"queue_depth": 1}),
        _set("disk", 0, "bytes_s", value="fast"),
        lambda document: [document],
        lambda document: None,
    ],
)
def test_a_damaged_document_counts_as_missing(tmp_path: Path, damage: Callable[[dict[str, Any]], object]) -> None:
    store_calibration(MEASURED, tmp_path)
    (path,) = (tmp_path / "calibration").iterdir()
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    assert load_calibration(KEY, tmp_path) is None


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_document_counts_as_missing(tmp_path: Path, data: bytes) -> None:
    store_calibration(MEASURED, tmp_path)
    (path,) = (tmp_path / "calibration").iterdir()
    path.write_bytes(data)
    assert load_calibration(KEY, tmp_path) is None
    assert stored_calibrations(tmp_path) == ()
    assert store_calibration(MEASURED, tmp_path)
    assert load_calibration(KEY, tmp_path) == MEASURED


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "calibration").write_text("a file in the folder's place")
    assert not store_calibration(MEASURED, tmp_path)
    assert load_calibration(KEY, tmp_path) is None


def test_a_write_that_fails_leaves_the_older_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_calibration(MEASURED, tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert not store_calibration(replace(MEASURED, disk=()), tmp_path)
    assert load_calibration(KEY, tmp_path) == MEASURED
    assert len(list((tmp_path / "calibration").iterdir())) == 1


def test_the_fastest_way_depends_on_the_tokens_and_on_what_is_allowed() -> None:
    def way(n_tokens: int, layouts: tuple[str, ...] | None = None) -> tuple[str, str] | None:
        rate = MEASURED.fastest("Q4_K", n_tokens, layouts)
        return (rate.layout, rate.operation) if rate else None

    assert way(1) == ("amx", "expert")
    assert way(1, ("plain", "repack")) == ("repack", "id")
    assert way(400, ("plain", "repack")) == ("plain", "id")
    assert way(1, ()) is None
    assert MEASURED.fastest("Q6_K", 1) is None


def test_curves_are_in_order_of_tokens() -> None:
    assert MEASURED.curve("Q4_K", "amx", "expert") == ((1.0, 51e9), (512.0, 149e9))
    assert MEASURED.curve("Q4_K", "amx", "id") == ()


def test_no_deeper_queue_than_pays() -> None:
    assert MEASURED.fastest_disk() == DiskRate(4, 2.0e9)
    assert replace(MEASURED, disk=()).fastest_disk() is None


def test_rates_for_the_micro_batch() -> None:
    rates = MEASURED.prefill_rates("Q4_K", "plain")
    assert (rates.disk_bytes_s, rates.expert_macs_s) == (2.0e9, ((1.0, 31e9), (512.0, 125e9)))
    unknown = replace(MEASURED, disk=()).prefill_rates("Q5_K", "plain")
    assert unknown.disk_bytes_s == PrefillRates().disk_bytes_s
    assert unknown.expert_macs_s == PrefillRates().expert_macs_s


@pytest.mark.parametrize(
    "changes",
    [
        {"disk": (DiskRate(0, 1e9),)},
        {"disk": (DiskRate(1, float("inf")),)},
        {"disk": (DiskRate(1, -1),)},
        {"experts": (ExpertRate("Q4_K", "plain", "id", 0, 1e9),)},
    ],
)
def test_rates_that_no_machine_has(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be above zero"):
        replace(MEASURED, **changes)


def test_the_shape_does_not_depend_on_the_order_of_types() -> None:
    assert KEY.shape == "Q4_K+Q6_K 2048x768x128"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nflags\t: amx\n", "Intel(R) Xeon(R)"),
        ("processor\t: 0\nCPU part\t: 0xd0c\n", "0xd0c"),
        ("processor: 0\nCPU part\t: 0xd08\nModel\t\t: Raspberry Pi 4\n", "Raspberry Pi 4"),
    ],
)
def test_names_of_cpus(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(text)
    assert cpu_name(tmp_path) == name


def test_the_key_of_this_machine_is_the_same_each_time(tmp_path: Path) -> None:
    key = calibration_key(tmp_path / "m.gguf", KEY.shape, 2)
    assert key == calibration_key(tmp_path / "m.gguf", KEY.shape, 2)
    assert key.cpu
    assert key.storage.startswith("/")
    assert key.library.startswith("0.")
