"""Devices chosen and split by the user: llama.cpp puts every layer where the plan says, and computes the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.services import engine_devices as module
from qwenctl.services.engine_devices import engine_devices
from qwenctl.services.engine_options import EngineOptions
from tests.moe.offload_runs import large_gguf
from tests.services.rpc_server import running_rpc_server

N_LAYERS = 7


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return large_gguf(tmp_path_factory.mktemp("seven") / "seven.gguf", n_layers=N_LAYERS, n_experts=8, width=64)


def run(model: Path, *ways: dict[str, Any], servers: int = 2) -> list[dict[str, Any]]:
    """Open `model` in these ways in one process with so many servers."""
    if not servers:
        return _run(model, ways, [])
    with running_rpc_server() as one, running_rpc_server() as two:
        return _run(model, ways, [one.endpoint, two.endpoint][:servers])


def _run(model: Path, ways: tuple[dict[str, Any], ...], endpoints: list[str]) -> list[dict[str, Any]]:
    words = [sys.executable, "-m", "tests.services.device_run", str(model), json.dumps(ways), *endpoints]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def planned(found: dict[str, Any]) -> dict[str, str]:
    """The device of each layer, the output last, as the counts mean it."""
    names = [name for name, count in zip(found["devices"], found["counts"], strict=True) for _ in range(count)]
    return {str(layer): name for layer, name in enumerate(["CPU"] * (N_LAYERS + 1 - len(names)) + names)}


def test_llama_puts_every_layer_where_the_plan_says(model: Path) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"split": [3, 1]},
        {"split": [1, 2.5]},
        {"split": [0, 1]},
        {"split": [1, 0]},
        {"devices": ["RPC1", "rpc0"], "split": [5, 2]},
        {"devices": ["RPC1"]},
        {"devices": []},
        {"n_gpu_layers": 5, "split": [2, 1]},
        {"n_gpu_layers": 0},
        {"mode": "on", "slots": 8, "split": [1, 3]},
        {"vram_bytes": 16_000_000, "split": [1, 1]},
    ]
    (local,) = run(model, {}, servers=0)
    found = run(model, *ways)
    assert (local["devices"], local["counts"]) == ([], [])
    for way, one in zip(ways, found, strict=True):
        if one["counts"]:
            assert one["layers"] == planned(one), way
        else:
            assert set(one["layers"].values()) == {"CPU"}, way
        assert np.array_equal(one["logits"], local["logits"]), way
    counts = [one["counts"] for one in found]
    assert counts[1:7] == [[6, 2], [3, 5], [0, 8], [8, 0], [6, 2], [8]]
    assert found[5]["devices"] == ["RPC1", "RPC0"]
    assert found[7]["devices"] == []
    assert sum(counts[0]) == 8
    assert counts[8:10] == [[4, 1], []]
    assert counts[10] == [2, 6]


def test_experts_that_do_not_fit_stay_in_main_memory(model: Path) -> None:
    (local,) = run(model, {}, servers=0)
    (found,) = run(model, {"vram_bytes": 22_500_000}, servers=1)
    assert found["cpu_experts"], found["placement"]
    assert len(found["cpu_experts"]) < N_LAYERS
    expected = [
        f"blk.{layer}.ffn_{kind}_exps.weight" for layer in found["cpu_experts"] for kind in ("down", "gate", "up")
    ]
    assert found["overridden"] == expected
    assert set(found["layers"].values()) == {"RPC0"}
    assert f"experts of {len(found['cpu_experts'])} of 7 layers in main memory" in found["placement"]
    assert np.array_equal(found["logits"], local["logits"])


def test_names_and_splits_that_are_not_there(model: Path) -> None:
    found = run(model, {"devices": ["CUDA7"]}, {"split": [1]}, {"split": [1, 1, 1]})
    assert found[0]["error"].startswith("no device CUDA7; there are: RPC0[127.0.0.1:")
    assert found[1]["error"].startswith("a split into 1 parts, but the devices are: RPC0[")
    assert "error" in found[2]
    with pytest.raises(InvalidRequest, match="there are: none"):
        engine_devices(["CUDA0"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"devices": ("CUDA0", "cuda0")},
        {"split": (0.0, 0.0)},
        {"split": (1.0, -1.0)},
        {"split": (float("nan"), 1.0)},
        {"devices": ("CUDA0",), "split": (1.0, 1.0)},
        {"devices": (), "split": (1.0,)},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        EngineOptions(**wrong)


def test_a_build_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_ggml: object) -> None:
        raise AttributeError("ggml_backend_dev_get_props")

    monkeypatch.setattr(module, "DeviceCalls", missing)
    assert engine_devices(None).devices == engine_devices(()).devices == ()
    with pytest.raises(InvalidRequest, match="cannot be asked"):
        engine_devices(["CUDA0"])
