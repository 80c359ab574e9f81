"""What a device is planned to hold when llama.cpp by itself places a model: attention as it will be computed there."""

from __future__ import annotations

from typing import Any, cast

import pytest

from quant.gguf_read import GgufFile, read_gguf
from qwenctl.moe.devices import Device
from qwenctl.moe.machine_memory import DeviceMemory
from qwenctl.services.engine_devices import EngineDevices
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.expert_offload import ContextSize
from qwenctl.services.stock_load import plan_stock
from tests.moe.offload_runs import large_gguf

SIZE = ContextSize(n_cells=8192, n_streams=1, n_outputs=1, n_threads=1)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> GgufFile:
    return read_gguf(large_gguf(tmp_path_factory.mktemp("model") / "model.gguf", n_layers=2, n_experts=8))


def planned(gguf: GgufFile, device: str, **options: Any) -> int:
    """The bytes planned on one large device."""
    found = EngineDevices(
        cast("Any", object()), (Device(1, device, "host:1", "gpu"),), (DeviceMemory(device, 1 << 33, 1 << 33),)
    )
    placement = plan_stock(gguf, EngineOptions(**options), found, SIZE)
    assert placement is not None
    (part,) = placement.parts
    return part.planned_bytes


def test_a_remote_device_gets_room_for_the_scores_of_attention(gguf: GgufFile) -> None:
    flash, scores = (planned(gguf, "RPC0", flash_attention=on) for on in (True, False))
    assert scores > flash
    assert planned(gguf, "RPC0") == scores
    assert planned(gguf, "CUDA0") == flash


def test_no_room_for_scores_where_only_flash_attention_can_be(gguf: GgufFile) -> None:
    q8 = {"cache_type_k": "q8_0", "cache_type_v": "q8_0"}
    assert planned(gguf, "RPC0", **q8) == planned(gguf, "RPC0", **q8, flash_attention=True)
