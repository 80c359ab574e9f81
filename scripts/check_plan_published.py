#!/usr/bin/env python3
"""The plan's speeds against published measurements of others' machines.

    scripts/check_plan_published.py

Each line: what was measured, by whom, what the plan says of the same model on that hardware, and how far it is off.
Where only a card is known, processor and memory are a usual desktop's. Nothing is asserted: machines, versions and
texts differ, and some of the figures are other engines'.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from quant.json_fields import JsonFields
from quant.model_outline import ModelOutline, outline_of_config
from quant.recipe import OUTPUT_TYPES
from qwenctl.planning.machine_text import parse_machine
from qwenctl.planning.model import PlannedModel
from qwenctl.planning.placement import ContextRequest, Placement, place, place_by_layers
from qwenctl.planning.speed import Speed, estimate_speed
from scripts.plan_check.memory_cases import read_outline

K = 1024
SMALL, NEXT, LARGEST = "Qwen3-30B-A3B-Instruct-2507", "Qwen3-Next-80B-A3B-Instruct", "Qwen3.5-397B-A17B"
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "vocab_size": 128256,
}


def decode(speed: Speed) -> float:
    """Tokens/s of answers after a short prompt."""
    return speed.decode.tokens_s


def full(speed: Speed) -> float:
    """Tokens/s of answers with the context full."""
    return speed.decode_full.tokens_s


def prefill(speed: Speed) -> float:
    """Tokens/s of a prompt of 2,048 tokens."""
    return speed.prefill.tokens_s


@dataclass(frozen=True, slots=True)
class Published:
    """One measurement."""

    what: str
    source: str
    model: str
    quant: str
    machine: str
    n_ctx: int
    rate: Callable[[Speed], float]
    tokens_s: float
    on_card_gib: float | None = None  # of the cards' memory that was allowed
    scheduled: bool = True  # by an engine that schedules experts; False: llama.cpp by itself


DESKTOP = "64GiB ddr5,16 cores,nvme4"
SERVER = "H200,256GiB xeon-ddr5,16 cores,nvme4"
CARDS = "4x24GiB,256GiB xeon-ddr5,32 cores,nvme4"
OURS = "this scheduler's bench on a card"

P = Published
RUNS = (
    P("RTX 4090, answer at 32K", "llama.cpp #17505", "8B", "q4_0", "4090-128", 32 * K, full, 102.8),
    P("RTX 3090, prompt", "llama.cpp #8416", "8B", "iq4_xs", f"RTX 3090,{DESKTOP}", 4 * K, prefill, 4217),
    P("RTX 3090, prompt", "llama.cpp #7860", "8B", "q6_k", f"RTX 3090,{DESKTOP}", 4 * K, prefill, 3525),
    P("RTX 4090, prompt (kernels of 2024)", "llama.cpp #7716", "8B", "q5_k_m", "4090-128", 4 * K, prefill, 5569),
    P("H200, answer", OURS, SMALL, "q4_k_m", SERVER, 2304, decode, 276),
    P("H200, prompt", OURS, SMALL, "q4_k_m", SERVER, 2304, prefill, 6900),
    P("H200 of 8 GiB, --n-cpu-moe, answer", OURS, SMALL, "q4_k_m", SERVER, 2304, decode, 64, 8, scheduled=False),
    P("H200 of 8 GiB, --n-cpu-moe, prompt", OURS, SMALL, "q4_k_m", SERVER, 2304, prefill, 443, 8, scheduled=False),
    P("RTX 4070 Ti, cache", "FATE fork", SMALL, "q4_k_m", f"RTX 4070,{DESKTOP}", 8 * K, decode, 64.5),
    P("RTX 4070 Ti, none", "the same", SMALL, "q4_k_m", f"RTX 4070,{DESKTOP}", 8 * K, decode, 33.7, 3, scheduled=False),
    P("RTX 5090, BF16", "kt-kernel #1914", SMALL, "bf16", f"RTX 5090,{DESKTOP}", 8 * K, decode, 52),
    P("4x RTX 4090, FP8, half the experts", "kt-kernel", NEXT, "q8_0", CARDS, 8 * K, decode, 81, 48),
    P("RTX 4090, from SSD", "flash-moe PR 7", LARGEST, "q4_k_m", "4090-128", 8 * K, decode, 5.35),
)  # fmt: skip


def outline_of(name: str) -> ModelOutline:
    """Return the outline of a model of the table."""
    return outline_of_config("llama-8b", JsonFields(Path("llama"), LLAMA_8B)) if name == "8B" else read_outline(name)


def planned(run: Published) -> tuple[Placement, float]:
    """Return where the plan puts the model, and its rate."""
    machine = parse_machine(run.machine)
    if run.on_card_gib is not None:
        share = int(run.on_card_gib * K**3) // len(machine.memory.devices)
        devices = tuple(replace(one, free_bytes=share) for one in machine.memory.devices)
        machine = replace(machine, memory=replace(machine.memory, devices=devices))
    model = PlannedModel.of(outline_of(run.model), OUTPUT_TYPES[run.quant])
    request = ContextRequest(run.n_ctx)
    placement = place(model, machine, request) if run.scheduled else place_by_layers(model, machine, request)
    if placement is None:
        raise SystemExit(f"{run.what}: does not fit")
    return placement, run.rate(estimate_speed(model, machine, placement, request))


def main() -> None:
    """Print the table."""
    print(f"{'measured':52} {'tokens/s':>9} {'plan':>9} {'off':>6}  weights in, source")
    for run in RUNS:
        placement, rate = planned(run)
        where = f"{placement.tier}{', scheduled' if placement.offload else ''}"
        print(f"{run.what:52} {run.tokens_s:9,.1f} {rate:9,.1f} {rate / run.tokens_s - 1:+6.0%}  {where}; {run.source}")


if __name__ == "__main__":
    main()
