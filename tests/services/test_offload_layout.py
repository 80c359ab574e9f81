"""Layout and operations of an opened model: as asked for, as measured, or as on a usual machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quant.gguf_read import read_gguf
from qwenctl.errors import InvalidRequest
from qwenctl.moe.calibration import Calibration, CalibrationKey, DiskRate, ExpertRate
from qwenctl.moe.expert_map import ExpertMap, read_expert_map
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.moe.prefill_rates import PrefillRates
from qwenctl.services import offload_layout as module
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.expert_offload import open_ggml
from qwenctl.services.offload_layout import OffloadLayout, layout_groups
from qwenctl.units import GIB


def offload_layout(ggml: Ggml, experts: ExpertMap, options: EngineOptions, n_threads: int) -> OffloadLayout:
    """Return what suits all experts in memory."""
    return next(next(layout_groups(ggml, experts, options, n_threads, has_devices=False)))


@pytest.fixture(scope="module")
def ggml() -> Ggml:
    return open_ggml()


@pytest.fixture(scope="module")
def experts(demo_gguf: Path) -> ExpertMap:
    found = read_expert_map(read_gguf(demo_gguf))
    assert found is not None
    return found


def large(experts: ExpertMap) -> ExpertMap:
    """The same with so many layers that measuring is worth it; nothing of them is read here."""
    return replace(experts, layers=experts.layers * (GIB // experts.expert_bytes))


def options(*, repack: bool = True, n_ubatch: int | None = None, **offload: Any) -> EngineOptions:
    return EngineOptions(repack=repack, n_ubatch=n_ubatch, offload=OffloadOptions(**offload))


def way(ggml: Ggml, experts: ExpertMap, **more: Any) -> tuple[str, bool, bool]:
    choice = offload_layout(ggml, experts, options(**more), 2).choice
    return choice.layout, choice.decode_per_expert, choice.batch_per_expert


def test_what_is_asked_for_is_done(ggml: Ggml, experts: ExpertMap) -> None:
    assert way(ggml, experts, layout="plain", operation="id") == ("plain", False, False)
    assert way(ggml, experts, layout="plain", operation="expert") == ("plain", True, True)
    assert way(ggml, experts, layout="plain", operation="id", repack=False) == ("plain", False, False)
    if "repack" in offered(ggml):
        assert way(ggml, experts, layout="repack", operation="expert", repack=False) == ("repack", True, True)
    if "amx" in offered(ggml):
        assert way(ggml, experts, layout="amx", operation="id") == ("amx", True, True)


def test_what_does_not_exist_is_refused(ggml: Ggml, experts: ExpertMap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.LayoutMaker, "available", lambda maker: ("plain",))
    with pytest.raises(InvalidRequest, match="no layout 'repack' with operation 'id'"):
        offload_layout(ggml, experts, options(layout="repack", operation="id"), 2)


def test_without_rearranging_the_file_s_layout(ggml: Ggml, experts: ExpertMap) -> None:
    assert way(ggml, experts, repack=False)[0] == "plain"


def test_a_folder_is_needed_to_measure(ggml: Ggml, experts: ExpertMap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "calibrated", lambda *arguments: pytest.fail("measured"))
    found = offload_layout(ggml, large(experts), options(), 2)
    usual = PrefillRates(arrange_bytes_s=found.rates.arrange_bytes_s)
    assert (found.rates, found.n_io_threads, found.is_measured) == (usual, None, False)


def test_small_models_are_not_measured(
    ggml: Ggml, experts: ExpertMap, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "calibrated", lambda *arguments: pytest.fail("measured"))
    assert not offload_layout(ggml, experts, options(calibration_dir=tmp_path), 2).is_measured


def test_what_was_measured_decides(
    ggml: Ggml, experts: ExpertMap, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Plain with a product an expert for one token, MUL_MAT_ID for many: what no usual machine would take."""
    rates = tuple(
        ExpertRate(kind, "plain", operation, n_tokens, macs_s)
        for kind in ("Q4_K", "Q4_K/Q6_K")
        for operation, n_tokens, macs_s in (("id", 1, 1e9), ("id", 512, 9e9), ("expert", 1, 5e9), ("expert", 512, 5e9))
    )
    asked: list[Any] = []

    def calibrated(*arguments: Any) -> Calibration:
        asked.append(arguments)
        return Calibration(CalibrationKey("", 2, "", "", ""), rates, (DiskRate(1, 1e9), DiskRate(8, 3e9)))

    monkeypatch.setattr(module, "calibrated", calibrated)
    wide = large(experts)
    found = offload_layout(ggml, wide, options(calibration_dir=tmp_path, n_ubatch=4096), 2)
    assert asked == [(wide, ggml, tmp_path, 2)]
    assert (found.choice.layout, found.choice.decode_per_expert, found.choice.batch_per_expert) == (
        "plain",
        True,
        False,
    )
    assert found.choice.gain > 1
    assert found.rates == PrefillRates(3e9, ((1.0, 5e9), (512.0, 9e9)), 9e9)
    assert (found.n_io_threads, found.is_measured) == (8, True)


def test_bytes_of_slots(ggml: Ggml, experts: ExpertMap) -> None:
    """Three matrices of 256×256 in whole pages: gate and up together, then down, in Q4_K or Q6_K."""
    found = offload_layout(ggml, experts, options(layout="plain"), 2)
    q4_k, q6_k = 256 * 144, 256 * 210
    assert sorted(set(found.slot_bytes)) == [2 * q4_k + q4_k, 2 * q4_k + pages(q6_k)]


def pages(n_bytes: int) -> int:
    return -(-n_bytes // 4096) * 4096


def offered(ggml: Ggml) -> tuple[str, ...]:
    maker = module.LayoutMaker(ggml)
    try:
        return maker.available()
    finally:
        maker.close()


def test_both_layouts_come_of_one_measurement(
    ggml: Ggml, experts: ExpertMap, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where nothing can be kept, each measurement would take seconds again."""
    measured = []

    def unkept(*arguments: Any) -> Calibration:
        measured.append(arguments)
        return Calibration(CalibrationKey("cpu", 2, "library", "shape", "/"))

    monkeypatch.setattr(module, "calibrated", unkept)
    groups = list(layout_groups(ggml, large(experts), options(calibration_dir=tmp_path), 2, has_devices=False))
    assert [len(list(group)) for group in groups] == [2]
    assert len(measured) == 1
