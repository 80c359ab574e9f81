"""The plans that users ask for: scripts/make_plan_goldens.py writes the files; each row is held against arithmetic."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qwenctl.units import GIB
from scripts.plan_check.goldens import CONTEXTS, FOLDER, KV_TYPES, LARGE, ROWS, golden
from scripts.plan_check.memory_cases import K

# 94 layers × 4 heads of keys and values × 128 × 2 × 2 bytes of a token, in GiB; Q8_0 has 34 bytes for 32.
_KV_GIB_A_TOKEN = 94 * 4 * 128 * 2 * 2 / GIB


def plans(machine: str) -> dict[tuple[int, str], dict[str, Any]]:
    found = json.loads((FOLDER / f"{machine}.json").read_text())["plans"]
    return {(plan["n_ctx"], plan["kv_type"]): plan for plan in found}


@pytest.mark.parametrize("machine", ROWS)
def test_plans_are_those_of_the_golden_files(machine: str) -> None:
    """After a change that is meant: scripts/make_plan_goldens.py."""
    assert golden(machine, ROWS[machine]) == json.loads((FOLDER / f"{machine}.json").read_text())


@pytest.mark.parametrize("machine", [machine for machine, model in ROWS.items() if model == LARGE])
def test_the_cache_is_what_arithmetic_says_and_nothing_exceeds_its_memory(machine: str) -> None:
    for (n_ctx, kv_type), plan in plans(machine).items():
        if plan["fits"]:
            cache = sum(parts.get("kv", 0.0) for parts in plan["gib"].values())
            share = 1 if kv_type == "f16" else 34 / 64
            assert cache == pytest.approx(_KV_GIB_A_TOKEN * n_ctx * share, rel=0.01)


def test_two_a100_hold_q4_k_m_and_128k_of_eight_bit_cache() -> None:
    """142.2 GB are 132.4 GiB; with 11.75 GiB of f16 cache for 64K, or 12.5 of q8_0 for 128K, 160 GiB are enough."""
    found = plans("2xa100")
    assert [found[32 * K, "f16"][key] for key in ("quant", "weights_in")] == ["q4_k_m", "devices"]
    assert [found[128 * K, "q8_0"][key] for key in ("quant", "weights_in")] == ["q4_k_m", "devices"]
    assert found[128 * K, "f16"]["quant"] == "iq4_xs"  # 24 GiB of cache leave no room for four more bits in a hundred
    assert found[32 * K, "f16"]["file_gb"] == 142.2


def test_one_a100_and_four_cards_leave_experts_in_main_memory() -> None:
    for machine in ("a100", "4x4090"):
        assert plans(machine)[32 * K, "f16"]["weights_in"] == "memory"


def test_eight_h100_hold_eight_bits_and_a_million_tokens() -> None:
    """232.7 GiB of Q8_0 and 188 of cache in 640; vLLM must keep experts whole: 1536 / 8 is no multiple of 128."""
    found = plans("8xh100")
    assert {(plan["quant"], plan["weights_in"]) for plan in found.values()} == {("q8_0", "devices")}
    assert "--tensor-parallel-size 8" in found[32 * K, "f16"]["vllm"]
    assert "--enable-expert-parallel" in found[32 * K, "f16"]["vllm"]


def test_a_4090_with_128_gib_keeps_every_expert_in_memory() -> None:
    plan = plans("4090-128")[32 * K, "f16"]
    assert (plan["quant"], plan["weights_in"]) == ("q4_k_m", "memory")
    assert plan["ram_slots"][0] + plan["device_slots"][0] >= 128
    assert 5 < plan["decode_tokens_s"] < 15


@pytest.mark.parametrize("machine", ["3060-64", "desktop-64"])
def test_64_gib_read_experts_from_the_disk(machine: str) -> None:
    plan = plans(machine)[32 * K, "f16"]
    assert (plan["quant"], plan["weights_in"]) == ("q4_k_m", "disk")
    assert 1 < plan["decode_tokens_s"] < 8
    assert not plans(machine)[1024 * K, "q8_0"]["fits"]


def test_a_laptop_of_16_gib_runs_30b() -> None:
    plan = plans("laptop-16")[32 * K, "f16"]
    assert (plan["quant"], plan["weights_in"]) == ("q4_k_m", "disk")
    assert 10 < plan["decode_tokens_s"] < 40


def test_a_million_tokens_come_with_what_yarn_cannot_do() -> None:
    for machine in ROWS:
        for (n_ctx, _), plan in plans(machine).items():
            if plan["fits"]:
                assert bool(plan["notes"]) == (n_ctx > 256 * K)


def test_every_row_is_there() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(ROWS)
    for machine in ROWS:
        assert set(plans(machine)) == {(n_ctx, kv) for n_ctx in CONTEXTS for kv in KV_TYPES}
