"""Plans at true sizes, on invented machines: what is promised of every budget, and the errors below the smallest."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.ggml_types import GGML_TYPES
from quant.gguf_read import read_gguf
from quant.tensor_info import TensorInfo
from qwenctl.errors import DoesNotFit, ExitCode, InvalidRequest
from qwenctl.moe.context_memory import ContextShape, compute_buffer_bytes, compute_bytes, kv_cache_bytes, work_bytes
from qwenctl.moe.device_budget import DeviceRequest, plan_devices
from qwenctl.moe.expert_map import read_expert_map
from qwenctl.moe.machine_memory import DeviceMemory, MachineMemory
from qwenctl.moe.model_size import ModelSize, resident_bytes, size_of_model
from qwenctl.moe.offload_plan import OffloadPlan, OffloadRequest
from qwenctl.moe.sizing import largest_context, size_offload, smallest_ram_bytes
from qwenctl.units import GIB, MIB, parse_bytes
from tests.moe.true_sizes import true_size
from tests.tiny_gguf import U32, TinyGguf

LARGE, SMALL = "Qwen3-235B-A22B", "Qwen3-30B-A3B"


def group(n_bytes: int, *, used: int = 0, devices: tuple[DeviceMemory, ...] = ()) -> MachineMemory:
    """A control group with that much left."""
    return MachineMemory(n_bytes, used, n_bytes + used, "the control group /a", shared=False, devices=devices)


def tiny(n_layers: int = 3, n_experts: int = 8, n_used: int = 2, slot_bytes: tuple[int, ...] = ()) -> ModelSize:
    slots = slot_bytes or (8 * MIB,) * n_layers
    shape = ContextShape(256, 4, 2, 192 * n_layers, 192 * n_layers, 64, 128, n_experts, n_used, 1000, n_layers)
    return ModelSize(
        n_experts=n_experts,
        n_experts_used=n_used,
        layers=tuple(range(n_layers)),
        expert_bytes=slots,
        slot_bytes=slots,
        expert_macs=(3 * 256 * 128,) * n_layers,
        largest_slice_bytes=max(slots) // 2,
        dense_bytes=40 * MIB,
        embedding_bytes=10 * MIB,
        output_bytes=10 * MIB,
        file_bytes=40 * MIB + n_experts * sum(slots),
        shape=shape,
    )


def assert_sound(plan: OffloadPlan, model: ModelSize, budget: int) -> None:
    """The laws that every plan obeys."""
    assert plan.budget_bytes == budget
    assert plan.free_bytes >= 0
    document = plan.as_json()
    assert sum(size for name, size in document.items() if name.endswith("_bytes") and name != "budget_bytes") == budget
    slots = sum(count * size for count, size in zip(plan.n_slots, model.slot_bytes, strict=True))
    assert plan.parts.experts == slots
    assert plan.parts.ring == plan.ring_slots * max(model.slot_bytes)
    assert all(model.n_experts_used <= count <= model.n_experts for count in plan.n_slots)
    assert max(plan.n_slots) - min(plan.n_slots) <= 1
    if not plan.resident:
        assert plan.ring_slots >= 4
        # Nothing that could be a slot lies idle.
        short = [size for count, size in zip(plan.n_slots, model.slot_bytes, strict=True) if count == min(plan.n_slots)]
        assert plan.free_bytes < min(short)


@pytest.mark.parametrize(
    ("name", "gib", "n_cells", "low", "high"),
    [
        (SMALL, 4, 8192, 8, 20),
        (SMALL, 8, 8192, 30, 50),
        (SMALL, 16, 8192, 85, 110),
        (LARGE, 24, 8192, 8, 20),
        (LARGE, 64, 32768, 40, 60),
        (LARGE, 128, 32768, 100, 120),
    ],
)
def test_slots_at_true_sizes(name: str, gib: int, n_cells: int, low: int, high: int) -> None:
    model = true_size(name, amx=True)
    plan = size_offload(model, group(gib * GIB), OffloadRequest(n_cells))
    assert_sound(plan, model, gib * GIB)
    assert low <= min(plan.n_slots) <= max(plan.n_slots) <= high
    assert not plan.resident
    assert not plan.stock_fits
    # Experts get what the dense part, the cache and the overhead leave: most of it where there is much.
    assert plan.parts.experts > budget_share(gib) * gib * GIB


def budget_share(gib: int) -> float:
    return 0.3 if gib < 8 else 0.5 if gib < 30 else 0.75


@pytest.mark.parametrize(("name", "gib"), [(SMALL, 24), (LARGE, 160)])
def test_with_enough_memory_every_expert_has_a_slot(name: str, gib: int) -> None:
    model = true_size(name)
    plan = size_offload(model, group(gib * GIB), OffloadRequest(8192))
    assert_sound(plan, model, gib * GIB)
    assert plan.resident
    assert plan.stock_fits
    assert plan.ring_slots == 0


def test_true_sizes_are_the_published_ones() -> None:
    large, small = true_size(LARGE), true_size(SMALL)
    assert round(large.file_bytes / 1e9, 1) == 142.1
    assert round(small.file_bytes / 1e9, 1) == 18.6
    assert min(small.expert_bytes) == 3 * 884736  # three matrices of 768 × 2048 in Q4_K
    assert large.expert_macs[0] == 3 * 4096 * 1536


def test_the_sizes_of_a_file_are_those_of_its_tensors(tmp_path: Path) -> None:
    gguf = read_gguf(TinyGguf.of("qwen3moe").write(tmp_path / "tiny.gguf"))
    experts = read_expert_map(gguf)
    assert experts is not None
    size = size_of_model(gguf, experts, [28672, 28672])
    assert (size.n_experts, size.n_experts_used, size.layers) == (4, 2, (0, 1))
    assert size.expert_bytes == (3 * 4 * 64 * 32,) * 2
    assert size.expert_macs == (3 * 64 * 32,) * 2
    assert size.largest_slice_bytes == 4 * 64 * 32
    assert size.embedding_bytes == 4 * 64 * 259
    assert size.output_bytes == size.embedding_bytes + 4 * 64  # tied: llama.cpp has a second copy
    assert size.dense_bytes == experts.dense_bytes + size.embedding_bytes
    shape = ContextShape(64, 2, 1, 2 * 32, 2 * 32, 32, 32, 4, 2, 259, 2, n_attention_layers=2)
    assert size.shape == shape


def test_layers_for_prediction_take_no_memory(tmp_path: Path) -> None:
    """llama.cpp does not load them unless it is asked to."""
    tiny_model = TinyGguf.of("qwen3moe")
    plain = read_gguf(tiny_model.write(tmp_path / "plain.gguf"))
    tiny_model.pairs |= {"qwen3moe.block_count": (U32, 3), "qwen3moe.nextn_predict_layers": (U32, 1)}
    layer = {name: tensor for name, tensor in tiny_model.tensors.items() if name.startswith("blk.1.")}
    tiny_model.tensors |= {name.replace("blk.1.", "blk.2."): tensor for name, tensor in layer.items()}
    predicting = read_gguf(tiny_model.write(tmp_path / "predicting.gguf"))
    sizes = []
    for gguf in (plain, predicting):
        experts = read_expert_map(gguf)
        assert experts is not None
        sizes.append(size_of_model(gguf, experts, [28672, 28672]))
    assert sizes[0] == replace(sizes[1], file_bytes=plain.size_bytes)
    assert sizes[1].file_bytes == predicting.size_bytes > plain.size_bytes


def test_tiles_for_amx_are_larger_than_blocks_of_the_file() -> None:
    def resident(kind: str, shape: tuple[int, ...]) -> tuple[int, int]:
        n_bytes = GGML_TYPES[kind].tensor_bytes(shape)
        return n_bytes, resident_bytes(TensorInfo("blk.0.attn_q.weight", kind, shape, Path("m.gguf"), 0, n_bytes))

    assert resident("Q4_K", (512, 256)) == (512 * 144, 512 * 148)
    assert resident("Q8_0", (512, 256)) == (512 * 8 * 34, 512 * 8 * 38)
    assert resident("Q6_K", (512, 256)) == (512 * 210, 512 * 210)
    assert resident("F32", (512,)) == (2048, 2048)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (8, 2, 12 * 2 * 64, 12 * 2 * 64)),
        ({"attention.head_count_kv": np.array([0, 2] * 6, np.int32)}, (8, 2, 12 * 64, 12 * 64)),
        ({"attention.value_length": 32}, (8, 2, 12 * 2 * 64, 12 * 2 * 32)),
        ({"attention.key_length": None, "attention.value_length": None}, (8, 2, 12 * 2 * 32, 12 * 2 * 32)),
        ({"attention.head_count_kv": None}, (8, 8, 12 * 8 * 64, 12 * 8 * 64)),
    ],
)
def test_shapes_from_metadata(changes: dict[str, Any], expected: tuple[int, ...]) -> None:
    values = {
        "block_count": 12,
        "embedding_length": 256,
        "attention.head_count": 8,
        "attention.head_count_kv": 2,
        "attention.key_length": 64,
        "attention.value_length": 64,
    } | changes
    metadata = {f"x.{key}": value for key, value in values.items() if value is not None}
    shape = ContextShape.of(metadata | {"general.architecture": "x"}, 1000)
    assert (shape.n_head, shape.n_head_kv, shape.n_kv_elements, shape.n_v_elements) == expected


@pytest.mark.parametrize("changes", [{"layers": ()}, {"expert_macs": (1, 2)}, {"n_experts_used": 9}])
def test_sizes_that_no_model_has(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        replace(tiny(), **changes)


@given(
    n_layers=st.integers(1, 6),
    n_experts=st.integers(2, 40),
    used=st.integers(1, 8),
    pages=st.lists(st.integers(1, 3000), min_size=6, max_size=6),
    budget=st.integers(100 * MIB, 3 * GIB),
    n_cells=st.integers(1, 40000),
    n_streams=st.integers(1, 8),
    n_io_threads=st.integers(1, 16),
    flash=st.sampled_from([None, True, False]),
    n_ubatch=st.sampled_from([None, 32, 512, 2048]),
)
def test_no_plan_exceeds_its_budget(
    n_layers: int,
    n_experts: int,
    used: int,
    pages: list[int],
    budget: int,
    n_cells: int,
    n_streams: int,
    n_io_threads: int,
    flash: bool | None,
    n_ubatch: int | None,
) -> None:
    slots = tuple(4096 * one for one in pages[:n_layers])
    model = tiny(n_layers, n_experts, min(used, n_experts), slots)
    request = OffloadRequest(
        n_cells, n_streams, flash_attention=flash, n_ubatch=n_ubatch, n_io_threads=n_io_threads, ram_bytes=budget
    )
    machine = group(4 * GIB)
    smallest = smallest_ram_bytes(model, machine, request)
    try:
        plan = size_offload(model, machine, request)
    except DoesNotFit:
        assert budget < smallest
        return
    assert_sound(plan, model, budget)
    assert budget > smallest - MIB
    assert flash is None or plan.flash_attention == flash
    assert n_ubatch is None or plan.n_ubatch == n_ubatch


@pytest.mark.parametrize("name", [SMALL, LARGE])
@pytest.mark.parametrize("n_cells", [512, 8192, 32768])
def test_the_smallest_budget_works_and_one_mebibyte_less_does_not(name: str, n_cells: int) -> None:
    model, machine, request = true_size(name, amx=True), group(512 * GIB), OffloadRequest(n_cells)
    smallest = smallest_ram_bytes(model, machine, request)
    assert smallest % MIB == 0
    plan = size_offload(model, machine, replace(request, ram_bytes=smallest))
    assert_sound(plan, model, smallest)
    assert min(plan.n_slots) == model.n_experts_used
    with pytest.raises(DoesNotFit) as refused:
        size_offload(model, machine, replace(request, ram_bytes=smallest - MIB))
    assert refused.value.exit_code == ExitCode.DOES_NOT_FIT == 3
    named = re.search(r"--ram (\S+)", refused.value.hint or "")
    assert named is not None
    assert parse_bytes(named.group(1)) == smallest


def test_reading_threads_and_waves_take_their_part() -> None:
    model, request = true_size(LARGE), OffloadRequest(512)
    usual = size_offload(model, group(32 * GIB), request).parts
    more = size_offload(model, group(32 * GIB), replace(request, n_io_threads=8, wave_rows=8192)).parts
    assert usual.staging == 4 * 6 * MIB  # one matrix of 1536 × 4096 in Q6_K: 5.2 MB, in huge pages
    assert more.staging == 2 * usual.staging
    assert more.scratch == 4 * (8192 + 64) * (4096 + 3 * 1536)
    assert more.experts < usual.experts


def test_too_little_memory_names_what_is_needed_and_what_there_is() -> None:
    with pytest.raises(DoesNotFit, match=r"needs at least 3\.\d GiB of RAM .* the control group /a has 2\.0 GiB left"):
        size_offload(true_size(SMALL), group(2 * GIB), OffloadRequest(8192))
    with pytest.raises(DoesNotFit, match=r"needs at least \d{3} MiB of RAM .* --ram is 50\.0 MiB"):
        size_offload(tiny(), group(2 * GIB), OffloadRequest(512, ram_bytes=50 * MIB))


def test_the_hint_is_a_context_that_fits_where_one_does() -> None:
    model, machine = true_size(SMALL), group(3 * GIB)
    with pytest.raises(DoesNotFit) as refused:
        size_offload(model, machine, OffloadRequest(32768))
    named = re.search(r"--ctx (\d+)", refused.value.hint or "")
    assert named is not None
    n_cells = int(named.group(1))
    assert size_offload(model, machine, OffloadRequest(n_cells))
    with pytest.raises(DoesNotFit):
        size_offload(model, machine, OffloadRequest(n_cells + 256))


def test_the_longest_context_that_fits() -> None:
    model, machine = true_size(SMALL), group(4 * GIB)
    assert largest_context(model, machine, OffloadRequest(1000)) == 1000
    n_cells = largest_context(model, machine, OffloadRequest(40960))
    assert n_cells is not None
    assert 8192 < n_cells < 32768
    assert largest_context(model, group(GIB), OffloadRequest(40960)) is None


def test_the_hint_asks_for_memory_where_no_context_helps() -> None:
    with pytest.raises(DoesNotFit) as refused:
        size_offload(true_size(LARGE), group(2 * GIB), OffloadRequest(8192))
    assert "smaller quantization" in (refused.value.hint or "")
    assert "--ctx" not in (refused.value.hint or "")


def test_more_ram_than_there_is_is_refused() -> None:
    with pytest.raises(DoesNotFit, match=r"--ram 48\.0 GiB is more than can be had here: 16\.0 GiB"):
        size_offload(true_size(SMALL), group(16 * GIB), OffloadRequest(512, ram_bytes=48 * GIB))


def test_ram_may_exceed_what_is_free_at_the_moment() -> None:
    machine = MachineMemory(4 * GIB, 0, 32 * GIB)
    plan = size_offload(true_size(SMALL), machine, OffloadRequest(512, ram_bytes=8 * GIB))
    assert plan.budget_bytes == 8 * GIB


def test_a_machine_of_its_own_leaves_more_to_others_than_a_control_group() -> None:
    model, request = true_size(SMALL), OffloadRequest(512)
    alone = size_offload(model, group(8 * GIB), request)
    among_others = size_offload(model, MachineMemory(8 * GIB, 0, 16 * GIB), request)
    asked = size_offload(model, MachineMemory(8 * GIB, 0, 16 * GIB), replace(request, ram_bytes=8 * GIB))
    assert among_others.parts.margin > 2 * alone.parts.margin
    assert asked.parts == alone.parts


def test_what_the_process_holds_already_is_part_of_its_budget() -> None:
    model, request = true_size(SMALL), OffloadRequest(512)
    fresh = size_offload(model, group(8 * GIB), request)
    later = size_offload(model, group(8 * GIB - 100 * MIB, used=100 * MIB), request)
    swollen = size_offload(model, group(7 * GIB, used=GIB), request)
    assert later.parts == fresh.parts
    assert swollen.parts.base == GIB


def test_too_little_address_space_is_refused_before_anything_is_reserved() -> None:
    model = true_size(SMALL)
    machine = replace(group(32 * GIB), address_space_bytes=32 * GIB)
    with pytest.raises(DoesNotFit, match="of address space") as refused:
        size_offload(model, machine, OffloadRequest(512))
    assert "ulimit -v unlimited" in (refused.value.hint or "")
    assert size_offload(model, replace(machine, address_space_bytes=64 * GIB), OffloadRequest(512))


def test_slots_for_tests_are_taken_as_given() -> None:
    plan = size_offload(tiny(), group(2 * GIB), OffloadRequest(512, n_slots=3))
    assert plan.n_slots == (3, 3, 3)
    with pytest.raises(InvalidRequest, match="1 slots a layer, but each token uses 2 experts"):
        size_offload(tiny(), group(2 * GIB), OffloadRequest(512, n_slots=1))
    with pytest.raises(DoesNotFit):
        size_offload(tiny(), group(300 * MIB), OffloadRequest(512, n_slots=6))


def test_a_slow_disk_buys_a_larger_micro_batch_and_a_tight_budget_a_smaller_one() -> None:
    model = true_size(SMALL, amx=True)
    assert size_offload(model, group(8 * GIB), OffloadRequest(8192)).n_ubatch == 2048
    request = OffloadRequest(8192)
    smallest = smallest_ram_bytes(model, group(8 * GIB), request)
    assert size_offload(model, group(smallest), request).n_ubatch < 512
    assert size_offload(model, group(8 * GIB), OffloadRequest(8192, n_batch=256)).n_ubatch == 256


def test_flash_attention_where_scores_would_take_the_memory() -> None:
    model = true_size(SMALL)
    several = OffloadRequest(8192, n_streams=2, n_ubatch=512)
    assert size_offload(model, group(5 * GIB), several).flash_attention
    assert not size_offload(model, group(16 * GIB), several).flash_attention
    assert size_offload(model, group(16 * GIB), replace(several, type_v="q8_0")).flash_attention
    # 512 MiB of scores are more than a sixteenth of 4 GiB, but nothing else would use them.
    long = OffloadRequest(65536, n_streams=2, n_ubatch=512)
    assert not size_offload(tiny(), group(4 * GIB), long).flash_attention
    assert size_offload(tiny(), group(700 * MIB), long).flash_attention


def test_flash_attention_with_one_sequence_unless_it_is_unwanted() -> None:
    model, alone = true_size(SMALL), OffloadRequest(8192, n_ubatch=512)
    assert size_offload(model, group(16 * GIB), alone).flash_attention
    assert not size_offload(model, group(16 * GIB), replace(alone, flash_attention=False)).flash_attention


@pytest.mark.parametrize(
    ("hidden", "width", "heads", "n_cells", "n_ubatch", "flash", "mebibytes"),
    [  # "CPU compute buffer size" of llama-cpp-python 0.3.36: two layers at these shapes, one output, small vocabulary
        (2048, 768, 32, 256, 512, False, 41.50),
        (2048, 768, 32, 2048, 512, False, 162.01),
        (2048, 768, 32, 8192, 512, False, 558.01),
        (2048, 768, 32, 8192, 512, True, 96.01),
        (2048, 768, 32, 8192, 2048, True, 384.05),
        (2048, 768, 32, 8192, 2048, False, 2232.03),
        (2048, 768, 32, 4096, 4096, True, 736.09),
        (2048, 768, 32, 512, 64, False, 10.44),
        (4096, 1536, 64, 256, 512, False, 81.50),
        (4096, 1536, 64, 2048, 512, False, 318.01),
        (4096, 1536, 64, 32768, 512, True, 208.01),
        (4096, 1536, 64, 8192, 2048, False, 4392.03),
        (4096, 1536, 64, 512, 64, False, 20.44),
    ],
)
def test_the_compute_buffer_is_never_larger_than_estimated(
    hidden: int, width: int, heads: int, n_cells: int, n_ubatch: int, flash: bool, mebibytes: float
) -> None:
    shape = ContextShape(hidden, heads, 4, 1024, 1024, 128, width, 128, 8, 259, 2)
    estimated = compute_buffer_bytes(shape, n_ubatch, n_cells, flash=flash) / MIB
    assert mebibytes - 0.1 <= estimated <= 1.1 * mebibytes


@pytest.mark.parametrize(("n_ubatch", "mebibytes"), [(512, 66), (2048, 240)])
def test_work_memory_is_never_larger_than_estimated(n_ubatch: int, mebibytes: int) -> None:
    """Anonymous memory of a process after 2048 tokens at 30B shape, less the compute buffer."""
    shape = ContextShape(2048, 32, 4, 1024, 1024, 128, 768, 128, 8, 0, 2)
    work = work_bytes(shape, n_ubatch, 2048)
    assert mebibytes <= work / MIB <= 1.4 * mebibytes
    assert compute_bytes(shape, n_ubatch, 2048) == work + compute_buffer_bytes(shape, n_ubatch, 2048)


def test_the_kv_cache_is_what_llama_cpp_allocates() -> None:
    shape = ContextShape(2048, 32, 4, 2 * 512, 2 * 512, 128, 768, 128, 8, 259, 2)
    assert kv_cache_bytes(shape, 8192, 1) == 32 * MIB
    assert kv_cache_bytes(shape, 4000, 8) == 128 * MIB
    assert kv_cache_bytes(shape, 8192, 1, "q8_0", "f16") == 16 * MIB * 34 // 64 + 16 * MIB


CARD = DeviceMemory("CUDA0", 24 * GIB, 24 * GIB)


def test_a_card_holds_the_dense_part_first_then_experts() -> None:
    model = true_size(LARGE)
    plan = size_offload(model, group(64 * GIB, devices=(CARD,)), OffloadRequest(32768))
    (budget,) = plan.devices.budgets
    assert plan.devices.n_gpu_layers == 95
    assert budget.has_output
    assert 5 <= budget.n_slots <= 20
    assert budget.planned_bytes <= budget.free_bytes < CARD.free_bytes
    assert budget.for_experts_bytes - budget.slots_bytes == budget.free_bytes - budget.planned_bytes
    without = size_offload(model, group(64 * GIB), OffloadRequest(32768))
    assert plan.parts.dense < without.parts.dense / 5
    assert plan.parts.kv == 0
    assert min(plan.n_slots) > min(without.n_slots)
    assert f"{budget.n_slots} a layer on CUDA0" in plan.summary()


@given(
    free=st.lists(st.integers(0, 40 * GIB), min_size=1, max_size=4),
    kv=st.integers(0, 8 * GIB),
    compute=st.integers(0, GIB),
    vram=st.none() | st.integers(0, 64 * GIB),
    n_gpu_layers=st.none() | st.integers(-1, 100),
)
def test_no_device_is_given_more_than_it_has(
    free: list[int], kv: int, compute: int, vram: int | None, n_gpu_layers: int | None
) -> None:
    model = true_size(LARGE)
    devices = [DeviceMemory(f"GPU{number}", size, size) for number, size in enumerate(free)]
    plan = plan_devices(model, devices, DeviceRequest(kv, compute, vram, n_gpu_layers))
    assert all(budget.planned_bytes <= budget.free_bytes for budget in plan.budgets)
    assert all(budget.free_bytes <= size for budget, size in zip(plan.budgets, free, strict=False))
    assert vram is None or sum(budget.planned_bytes for budget in plan.budgets) <= vram
    held = [layer for budget in plan.budgets for layer in budget.layers]
    assert held == list(range(model.shape.n_layers + 1 - plan.n_gpu_layers, model.shape.n_layers))
    assert sum(budget.has_output for budget in plan.budgets) == (plan.n_gpu_layers > 0)
    assert sum(budget.kv_bytes for budget in plan.budgets) <= kv + len(devices)


def test_two_cards_share_the_layers_by_their_memory() -> None:
    devices = (CARD, DeviceMemory("CUDA1", 12 * GIB, 12 * GIB))
    plan = plan_devices(true_size(SMALL), devices, DeviceRequest(GIB, 128 * MIB))
    first, second = (len(budget.layers) for budget in plan.budgets)
    assert first + second == 48
    assert 1.7 < first / second < 2.6
    assert all(budget.n_slots == 128 for budget in plan.budgets)


def test_a_card_too_small_for_the_dense_part_takes_the_last_layers() -> None:
    plan = plan_devices(true_size(LARGE), [DeviceMemory("GPU", 2 * GIB, 2 * GIB)], DeviceRequest(GIB, 128 * MIB))
    (budget,) = plan.budgets
    assert 0 < plan.n_gpu_layers < 95
    assert budget.layers[-1] == 93
    assert plan_devices(true_size(LARGE), [], DeviceRequest(GIB, 0)).n_gpu_layers == 0


def test_the_summary_is_one_line_and_the_document_is_json() -> None:
    plan = size_offload(true_size(SMALL, amx=True), group(8 * GIB), OffloadRequest(8192, layout="amx"))
    line = plan.summary()
    assert re.fullmatch(
        r"experts: \d+(-\d+)? of 128 a layer in \d\.\d GiB of RAM \(AMX layout\), the others read from disk; "
        r"dense part \d\.\d GiB resident; micro-batch 2048",
        line.replace("MiB resident", "GiB resident").replace(line.split("dense part ")[1].split()[0], "1.0"),
    )
    assert json.loads(json.dumps(plan.as_json()))["n_slots"] == list(plan.n_slots)
    full = size_offload(true_size(SMALL), group(32 * GIB), OffloadRequest(512))
    assert full.summary().startswith("experts: all 128 a layer in ")


def test_what_the_caller_reserves_is_taken_from_the_experts() -> None:
    model, machine = true_size(SMALL), group(12 * GIB)
    plain = size_offload(model, machine, OffloadRequest(512))
    reserved = size_offload(model, machine, OffloadRequest(512, reserved_bytes=2 * GIB))
    assert reserved.parts.base - plain.parts.base == 2 * GIB
    assert 1.5 * GIB < plain.parts.experts - reserved.parts.experts < 2.5 * GIB
    assert reserved.parts.total_bytes <= reserved.budget_bytes
