"""Speeds: laws that hold whatever the figures are, and arithmetic that anyone can do by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qwenctl.moe.microbatch import miss_rate
from qwenctl.planning.machine import CpuRates, GpuRates, Machine
from qwenctl.planning.machine_text import parse_machine
from qwenctl.planning.placement import ContextRequest
from qwenctl.planning.plan import RunPlan, plan_quant
from qwenctl.planning.speed import estimate_speed
from scripts.plan_check.memory_cases import K, read_outline

SMALL, LARGE = "Qwen3-30B-A3B-Instruct-2507", "Qwen3-235B-A22B-Instruct-2507"


def planned(name: str, machine: str, n_ctx: int = 8 * K, n_parallel: int = 1, quant: str = "q4_k_m") -> RunPlan:
    return plan_quant(read_outline(name), quant, parse_machine(machine), ContextRequest(n_ctx, n_parallel))


def test_a_dense_model_in_memory_reads_its_weights_once_a_token() -> None:
    plan = planned("Qwen3-32B", "64GiB ram,100GB/s ram,64 cores,nvme4")
    read = 65e9  # what products reach of 100 GB/s
    weights = sum(plan.model.sizes.dense) + plan.model.sizes.output
    assert plan.speed.decode.tokens_s == pytest.approx(read / weights, rel=0.12)  # layers and cache besides
    assert plan.speed.decode.bound_by == "reading weights from main memory"


def test_experts_of_235b_in_memory_are_eight_gibibytes_a_token() -> None:
    """At 60 GB/s they alone allow seven tokens a second; the dense part, 4 GiB more, leaves less than five."""
    plan = planned(LARGE, "192GiB ram,92.3GB/s ram,32 cores,nvme4")
    seconds = plan.speed.decode.seconds["memory"]
    assert plan.placement.tier == "memory"
    assert 1 / 5 < seconds < 1 / 4.5


def test_a_slow_disk_bounds_and_a_quick_one_does_not() -> None:
    slow, quick = planned(LARGE, "48GiB ram,16 cores,sata,ddr5"), planned(LARGE, "48GiB ram,16 cores,nvme5,ddr5")
    assert slow.speed.decode.bound_by == slow.speed.prefill.bound_by == "reading experts from the disk"
    assert quick.speed.decode.tokens_s > 3 * slow.speed.decode.tokens_s


def test_a_longer_prompt_in_the_cache_makes_answers_slower() -> None:
    plan = planned(SMALL, "4090-128", 64 * K)
    assert plan.speed.decode_full.tokens_s < 0.8 * plan.speed.decode.tokens_s
    assert plan.speed.n_prompt == 2048


def test_prompts_are_as_long_as_the_context_allows() -> None:
    plan = planned("Qwen3-0.6B", "4090-128", 512)
    assert plan.speed.n_prompt == 511
    shorter = estimate_speed(plan.model, plan.machine, plan.placement, plan.request, 100)
    assert shorter.n_prompt == 100


def test_a_quicker_card_is_never_slower() -> None:
    rates = [planned(SMALL, f"{card},64GiB ram,16 cores,ddr5,nvme4").speed for card in ("RTX 3090", "RTX 4090")]
    assert rates[0].decode.tokens_s < rates[1].decode.tokens_s
    assert rates[0].prefill.tokens_s < rates[1].prefill.tokens_s


def test_seconds_add_up_to_the_rate() -> None:
    for machine in ("4090-128", "desktop-64", "2xa100"):
        decode = planned(LARGE, machine).speed.decode
        assert 1 / sum(decode.seconds.values()) == pytest.approx(decode.tokens_s)


def test_more_slots_miss_less_and_flatter_routing_more() -> None:
    assert miss_rate(128, 0) == 1
    assert miss_rate(128, 128) == 0
    assert 0.03 < miss_rate(128, 51) < 0.11  # published for 40 %: 0.05 to 0.10
    assert miss_rate(512, 93) == pytest.approx(0.57, abs=0.05)  # published: hits 43.5 %
    assert miss_rate(8, 4) == pytest.approx(0.35, abs=0.01)


def test_machines_that_cannot_be() -> None:
    machine = parse_machine("4090-128")
    with pytest.raises(ValueError, match="2 rates for 1 devices"):
        Machine("x", machine.memory, machine.gpus * 2, machine.cpu, 0.4)
    with pytest.raises(ValueError, match="no such device"):
        GpuRates(0, 1, 0, 1)
    with pytest.raises(ValueError, match="no such processor"):
        CpuRates(0, 1, 0, machine.cpu.batch)
    with pytest.raises(ValueError, match="no such context"):
        replace(ContextRequest(1), n_ctx=0)
