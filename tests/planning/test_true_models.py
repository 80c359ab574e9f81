"""Outlines and plans at the true shapes of the models that people run. The configurations are those of their cards."""

from __future__ import annotations

import time
from math import prod

import pytest

from quant.errors import CheckpointError
from quant.recipe import OUTPUT_TYPES
from qwenctl.moe.context_memory import ContextShape, kv_cache_bytes
from qwenctl.planning.machine_text import parse_machine
from qwenctl.planning.model import PlannedModel
from qwenctl.planning.placement import ContextRequest, place
from qwenctl.planning.plan import plan_best, plan_quant
from qwenctl.units import GIB
from scripts.plan_check.memory_cases import CONFIGS, K, read_outline

# Billions of weights as the cards say, or as counted in the checkpoints; layers, experts of a token.
_WEIGHTS = {
    "Qwen3-0.6B": 0.596,
    "Qwen3-1.7B": 1.72,
    "Qwen3-4B": 4.02,
    "Qwen3-8B": 8.19,
    "Qwen3-14B": 14.77,
    "Qwen3-32B": 32.76,
    "Qwen3-30B-A3B-Instruct-2507": 30.53,
    "Qwen3-235B-A22B-Instruct-2507": 235.1,
    "Qwen3-Coder-480B-A35B-Instruct": 480.2,
    "Qwen3-Next-80B-A3B-Instruct": 79.7,
    "Qwen3.5-397B-A17B": 396.4,
    "DeepSeek-V3": 671.0,
    "Mixtral-8x22B-Instruct-v0.1": 140.6,
}
_LARGE = "8xH100,2TiB ram,96 cores,xeon-ddr5,nvme4"


def shape_of(name: str) -> ContextShape:
    outline = read_outline(name)
    return ContextShape.of(outline.metadata, outline.shapes["token_embd.weight"][0])


def test_every_configuration_is_tried() -> None:
    assert {path.stem for path in CONFIGS.glob("*.json")} == set(_WEIGHTS)


@pytest.mark.parametrize(("name", "billions"), _WEIGHTS.items())
def test_weights_are_as_many_as_published(name: str, billions: float) -> None:
    n_weights = sum(prod(shape) for shape in read_outline(name).shapes.values())
    assert n_weights / 1e9 == pytest.approx(billions, rel=0.002)


@pytest.mark.parametrize("name", _WEIGHTS)
def test_every_model_is_planned_on_small_and_large_machines(name: str) -> None:
    for machine in ("4090-128", _LARGE):
        plan = plan_best(read_outline(name), parse_machine(machine), ContextRequest(8 * K))
        placement, speed = plan.placement, plan.speed
        assert len(placement.layers) == plan.model.shape.n_layers
        assert all(memory.planned_bytes <= memory.total_bytes for memory in placement.memories)
        held = sum(memory.parts.get("dense", 0) + memory.parts.get("experts", 0) for memory in placement.memories)
        if placement.tier != "disk":
            assert held >= 0.97 * (plan.model.file_bytes - plan.model.outline.header_bytes)
        assert plan.n_ctx_most >= plan.n_ctx_same >= 8 * K
        assert speed.decode_full.tokens_s <= speed.decode.tokens_s < speed.prefill.tokens_s


@pytest.mark.parametrize("quant", ["bf16", "q8_0", "q4_k_m", "iq4_xs"])
def test_sizes_of_files_are_the_recipes(quant: str) -> None:
    gguf = read_outline("Qwen3-235B-A22B-Instruct-2507").gguf(OUTPUT_TYPES[quant])
    expected = {"bf16": 470.3, "q8_0": 249.9, "q4_k_m": 142.1, "iq4_xs": 126.66}[quant]
    assert sum(tensor.n_bytes for tensor in gguf.tensors.values()) / 1e9 == pytest.approx(expected, abs=0.06)


def test_caches_of_the_families() -> None:
    """A token of 235B: 94 layers of 4 × 128 keys and values in f16. DeepSeek-V3 keeps 576 numbers a layer, no more."""
    assert kv_cache_bytes(shape_of("Qwen3-235B-A22B-Instruct-2507"), 256, 1) == 256 * 94 * 4 * 128 * 2 * 2
    assert kv_cache_bytes(shape_of("DeepSeek-V3"), 256, 1) == 256 * 61 * 576 * 2
    next_80b = shape_of("Qwen3-Next-80B-A3B-Instruct")
    assert next_80b.state_bytes == 36 * 4 * (3 * (4096 + 2 * 2048) + 128 * 4096)
    assert kv_cache_bytes(next_80b, 256, 3) == 3 * (256 * 12 * 2 * 256 * 2 * 2 + next_80b.state_bytes)


@pytest.mark.parametrize("name", ["Qwen3-235B-A22B-Instruct-2507", "Qwen3-30B-A3B-Instruct-2507"])
def test_a_plan_takes_less_than_two_seconds(name: str) -> None:
    """Nothing else is timed here: the limit is twenty times what it takes."""
    start = time.process_time()
    plan_best(read_outline(name), parse_machine("4090-128"), ContextRequest(32 * K))
    assert time.process_time() - start < 2.0


def test_a_checkpoint_has_no_types_of_its_own() -> None:
    with pytest.raises(CheckpointError, match="types must be chosen"):
        read_outline("Qwen3-8B").gguf()


def test_a_dense_model_that_fits_a_card_lies_there_whole() -> None:
    model = PlannedModel.of(read_outline("Qwen3-8B"), OUTPUT_TYPES["q4_k_m"])
    placement = place(model, parse_machine("4090-128"), ContextRequest(32 * K))
    assert placement.tier == "devices"
    assert {layer.device for layer in placement.layers} == {0}
    assert placement.output_device == 0


def test_a_dense_model_that_does_not_fit_a_card_is_split() -> None:
    model = PlannedModel.of(read_outline("Qwen3-32B"), OUTPUT_TYPES["q4_k_m"])
    placement = place(model, parse_machine("3060-64"), ContextRequest(8 * K))
    assert placement.tier == "memory"
    assert {layer.device for layer in placement.layers} == {0, None}


def test_sequences_answer_faster_together_than_one() -> None:
    outline, machine = read_outline("Qwen3-30B-A3B-Instruct-2507"), parse_machine("4090-128")
    one = plan_quant(outline, "q4_k_m", machine, ContextRequest(2 * K))
    eight = plan_quant(outline, "q4_k_m", machine, ContextRequest(2 * K, 8))
    assert one.speed.decode.tokens_s < eight.speed.decode.tokens_s < 8 * one.speed.decode.tokens_s


def test_more_memory_is_never_slower() -> None:
    outline, rates = read_outline("Qwen3-235B-A22B-Instruct-2507"), []
    for gib in (48, 64, 96, 128, 160, 256):
        machine = parse_machine(f"{gib}GiB ram,16 cores,ddr5,nvme4")
        assert machine.memory.limit_bytes == gib * GIB
        rates.append(plan_quant(outline, "q4_k_m", machine, ContextRequest(8 * K)).speed.decode.tokens_s)
    assert rates == sorted(rates)
