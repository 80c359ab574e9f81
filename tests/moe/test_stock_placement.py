"""Layers on devices when llama.cpp places by itself: all that fits, nothing beyond what there is, the user's split."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.tensor_info import TensorInfo
from qwenctl.moe.device_budget import DeviceRequest
from qwenctl.moe.device_split import held_layers
from qwenctl.moe.machine_memory import DeviceMemory
from qwenctl.moe.stock_placement import LayerSizes, cpu_override, layer_sizes, place_stock

MIB = 1 << 20
DENSE = LayerSizes((100 * MIB,) * 10, (0,) * 10, 200 * MIB)
EXPERTS = LayerSizes((10 * MIB,) * 10, (0,) + (100 * MIB,) * 9, 50 * MIB)
REQUEST = DeviceRequest(kv_bytes=100 * MIB, compute_bytes=50 * MIB)


def card(mib: int, name: str = "CUDA0") -> DeviceMemory:
    """A device with so much for layers; the margin is added."""
    return DeviceMemory(name, (mib + 128) * MIB * 32 // 31 + MIB, 1 << 40)


def test_all_fits_and_is_split_by_free_memory() -> None:
    found = place_stock(DENSE, [card(3000), card(1000, "CUDA1")], REQUEST)
    assert found.n_gpu_layers == 11
    assert found.layer_counts == (9, 2)
    assert (found.is_whole, found.cpu_experts) == (True, ())


def test_a_dense_model_that_does_not_fit_has_its_last_layers_on_the_device() -> None:
    found = place_stock(DENSE, [card(50 + 200 + 4 * 110)], REQUEST)
    (part,) = found.parts
    assert (found.n_gpu_layers, part.layers, part.has_output) == (5, (6, 7, 8, 9), True)
    assert found.summary() == "layers: 4 on CUDA0 (690.0 MiB), 6 in main memory"
    assert place_stock(DENSE, [card(100)], REQUEST).n_gpu_layers == 0
    assert place_stock(DENSE, [], REQUEST).summary() == "layers: 10 in main memory"


def test_each_device_is_filled_when_not_all_fit() -> None:
    """The output weighs on the last one; by free memory alone the first would stay half empty."""
    found = place_stock(DENSE, [card(50 + 4 * 110), card(50 + 200 + 2 * 110, "CUDA1")], REQUEST)
    assert found.layer_counts == (4, 3)
    small_last = place_stock(DENSE, [card(50 + 200 + 4 * 110), card(60, "CUDA1")], REQUEST)
    assert small_last.layer_counts == (5, 0)


def test_experts_stay_in_main_memory_where_devices_are_too_small_for_them() -> None:
    found = place_stock(EXPERTS, [card(50 + 50 + 10 * 20 + 320)], REQUEST)
    assert (found.n_gpu_layers, found.cpu_experts) == (11, (1, 2, 3, 4, 5, 6))
    assert found.summary().endswith("; experts of 6 of 10 layers in main memory")
    pattern = re.compile(cpu_override(found.cpu_experts))
    assert pattern.search("blk.6.ffn_down_exps.weight")
    assert not pattern.search("blk.7.ffn_down_exps.weight")
    assert not pattern.search("blk.16.ffn_down_exps.weight")
    assert not pattern.search("blk.6.ffn_gate_inp.weight")


def test_the_users_split_is_kept() -> None:
    devices = [card(3000), card(3000, "CUDA1")]
    assert place_stock(DENSE, devices, DeviceRequest(0, 0, split=(3, 1))).layer_counts == (9, 2)
    assert place_stock(DENSE, devices, DeviceRequest(0, 0, split=(0, 1))).layer_counts == (0, 11)
    assert place_stock(DENSE, devices, DeviceRequest(0, 0, split=(1, 0))).layer_counts == (11, 0)
    tight = [card(260), card(3000, "CUDA1")]
    found = place_stock(DENSE, tight, DeviceRequest(0, 0, split=(1, 1)))
    assert (found.layer_counts, found.n_gpu_layers) == ((2, 2), 4)


@given(
    free=st.lists(st.integers(0, 2000), min_size=1, max_size=4),
    kv=st.integers(0, 500),
    compute=st.integers(0, 300),
    most=st.none() | st.integers(-1, 20),
    sizes=st.sampled_from([DENSE, EXPERTS]),
    data=st.data(),
)
def test_no_device_gets_more_than_it_has_and_layers_are_in_order(
    free: list[int], kv: int, compute: int, most: int | None, sizes: LayerSizes, data: st.DataObject
) -> None:
    split = data.draw(st.none() | st.tuples(*(st.integers(1, 5) for _ in free)))
    devices = [DeviceMemory(f"GPU{n}", size * MIB, size * MIB) for n, size in enumerate(free)]
    found = place_stock(sizes, devices, DeviceRequest(kv * MIB, compute * MIB, None, most, split))
    assert all(part.planned_bytes <= part.free_bytes for part in found.parts)
    held = [layer for part in found.parts for layer in part.layers]
    assert held == list(range(11 - found.n_gpu_layers, 10))
    assert sum(found.layer_counts) == found.n_gpu_layers <= (11 if most is None or most < 0 else most)
    kept = {layer for part in found.parts for layer in part.expert_layers}
    assert set(found.cpu_experts) | kept == {layer for layer in held if sizes.experts[layer]}


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 60))
def test_counts_as_proportions_give_the_same_layers_again(counts: list[int], n_left: int) -> None:
    """What llama.cpp does with the counts it is told: in single precision, too, since both are the same quotients."""
    n_layers = sum(counts) + n_left - 1
    held = held_layers(n_layers, counts, sum(counts))
    assert [len(layers) for layers in held] == counts


def test_sizes_come_from_the_names_of_tensors() -> None:
    def tensor(name: str, n: int) -> tuple[str, TensorInfo]:
        return name, TensorInfo(name, "F32", (n,), Path("model.gguf"), 0, 4 * n)

    tensors = dict(
        [
            tensor("token_embd.weight", 7),
            tensor("output_norm.weight", 1),
            tensor("blk.0.attn_q.weight", 2),
            tensor("blk.0.ffn_down.weight", 3),
            tensor("blk.1.attn_q.weight", 2),
            tensor("blk.1.ffn_down_exps.weight", 50),
            tensor("blk.1.ffn_gate_up_exps.weight", 60),
            tensor("blk.2.nextn.eh_proj.weight", 9),
        ]
    )
    assert layer_sizes(tensors, 2) == LayerSizes((20, 8), (0, 440), 32)
    with pytest.raises(ValueError, match="one entry a layer"):
        LayerSizes((1,), (), 0)
