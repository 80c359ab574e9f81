"""The first look at a machine says what a plan says, roughly: sizes to the byte, places and speeds within a band."""

from __future__ import annotations

from pathlib import Path

import pytest

from quant.json_fields import JsonFields
from quant.json_file import read_json_object
from quant.model_outline import ModelOutline, outline_of_config
from quant.recipe import OUTPUT_TYPES
from qwenctl.moe.context_memory import kv_cache_bytes
from qwenctl.planning.first_advice import Glance, Verdict, advise_all, recommended, verdict
from qwenctl.planning.machine import Machine
from qwenctl.planning.machine_text import MACHINES, parse_machine
from qwenctl.planning.model import PlannedModel
from qwenctl.planning.placement import ContextRequest, try_place
from qwenctl.planning.qwen3_sizes import GLANCE_CTX, QWEN3, KnownModel
from qwenctl.planning.speed import estimate_speed
from qwenctl.services.hub.short_names import SHORT_NAMES

CONFIGS = Path(__file__).parent / "configs"
REQUEST = ContextRequest(GLANCE_CTX, 1, "f16")


def outline_of(name: str) -> ModelOutline:
    label = SHORT_NAMES[name].checkpoint.partition("/")[2]
    found = [path for path in CONFIGS.glob("Qwen3-*.json") if path.stem.removesuffix("-Instruct-2507") == label]
    return outline_of_config(found[0].stem, JsonFields(found[0], read_json_object(found[0], 1 << 20)))


def planned(name: str, quant: str) -> PlannedModel:
    return PlannedModel.of(outline_of(name), OUTPUT_TYPES[quant])


def glance(machine: Machine) -> Glance:
    devices = machine.memory.devices
    gpus = tuple((device.free_bytes, rates) for device, rates in zip(devices, machine.gpus, strict=True))
    return Glance(machine.memory.available_bytes, machine.cpu, gpus)


@pytest.mark.parametrize("model", QWEN3, ids=lambda model: model.name)
def test_sizes_are_those_of_the_files_that_conversion_writes(model: KnownModel) -> None:
    for quant, size in model.quants.items():
        plan = planned(model.name, quant)
        shape, tensors = plan.shape, plan.gguf.tensors
        experts = sum(tensor.n_bytes for name, tensor in tensors.items() if "_exps" in name)
        others = sum(tensor.n_bytes for tensor in tensors.values()) - experts
        unread = tensors["token_embd.weight"].n_bytes if "output.weight" in tensors else 0
        used = experts * shape.n_experts_used // shape.n_experts if experts else 0
        assert size.file_bytes == plan.file_bytes
        assert size.token_bytes == others - unread + used
        assert (model.n_layers, model.has_experts) == (shape.n_layers, experts > 0)
        assert model.kv_bytes == kv_cache_bytes(shape, GLANCE_CTX, 1)


@pytest.mark.parametrize("name", MACHINES)
def test_places_and_speeds_are_those_of_a_plan(name: str) -> None:
    machine = parse_machine(name)
    words = {"devices": ("GPU",), "memory": ("memory", "GPU and memory"), "disk": ("disk in part",)}
    for model in QWEN3:
        ours, plan = verdict(model, "q4_k_m", glance(machine)), planned(model.name, "q4_k_m")
        placement = try_place(plan, machine, REQUEST, ())
        if placement is None:
            assert ours.where == "nowhere", model.name
            continue
        assert ours.where in words[placement.tier], model.name
        if ours.tokens_s is not None and not (model.has_experts and ours.where == "GPU and memory"):
            theirs = estimate_speed(plan, machine, placement, REQUEST).decode.tokens_s
            assert 0.6 < ours.tokens_s / theirs < 1.7, (model.name, ours.tokens_s, theirs)


def test_better_types_where_there_is_room() -> None:
    by_name = {one.model.name: one for one in advise_all(glance(parse_machine("4090-128")))}
    assert (by_name["qwen3:8b"].quant, by_name["qwen3:8b"].where) == ("q8_0", "GPU")
    assert by_name["qwen3:14b"].quant == "q8_0"
    assert (by_name["qwen3:30b-a3b"].quant, by_name["qwen3:30b-a3b"].where) == ("q5_k_m", "GPU")
    slow = {one.model.name: one for one in advise_all(glance(parse_machine("laptop-16")))}
    assert (slow["qwen3:8b"].quant, slow["qwen3:8b"].where) == ("q4_k_m", "memory")
    assert slow["qwen3:235b-a22b"].where in ("disk in part", "nowhere")


def test_the_most_able_model_that_is_quick_enough_is_recommended() -> None:
    def one(name: str, rate: float | None) -> Verdict:
        model = next(model for model in QWEN3 if model.name == name)
        return Verdict(model, "q4_k_m", "disk in part" if rate is None else "memory", rate)

    some = [one("qwen3:4b", 30.0), one("qwen3:8b", 12.0), one("qwen3:32b", 2.0), one("qwen3:235b-a22b", None)]
    assert recommended(some).model.name == "qwen3:8b"
    assert recommended([one("qwen3:0.6b", 3.0), one("qwen3:8b", 0.2)]).model.name == "qwen3:0.6b"


def test_every_name_can_be_pulled() -> None:
    assert {model.name for model in QWEN3} <= set(SHORT_NAMES)
