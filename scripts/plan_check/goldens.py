"""The plans that users ask for, as the golden files hold them: rows of machines and models, contexts of 32K to 1M."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwenctl.errors import DoesNotFit
from qwenctl.planning.commands import run_commands, vllm_road
from qwenctl.planning.machine_text import MACHINES, parse_machine
from qwenctl.planning.placement import ContextRequest
from qwenctl.planning.plan import RunPlan, plan_best
from qwenctl.units import GIB
from scripts.plan_check.memory_cases import K, read_outline

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "planning" / "goldens"
LARGE, SMALL = "Qwen3-235B-A22B-Instruct-2507", "Qwen3-30B-A3B-Instruct-2507"

ROWS: Mapping[str, str] = {
    "2xa100": LARGE,
    "a100": LARGE,
    "4x4090": LARGE,
    "8xh100": LARGE,
    "4090-128": LARGE,
    "3060-64": LARGE,
    "desktop-64": LARGE,
    "laptop-16": SMALL,
}
"""Model by machine (qwenctl.planning.machine_text.MACHINES)."""

CONTEXTS = (32 * K, 128 * K, 256 * K, 1024 * K)
KV_TYPES = ("f16", "q8_0")


def golden(machine: str, model: str) -> dict[str, Any]:
    """Return what the golden file of a row holds."""
    plans = [_entry(machine, model, ContextRequest(n_ctx, 1, kv)) for n_ctx in CONTEXTS for kv in KV_TYPES]
    return {"machine": MACHINES[machine], "model": model, "plans": plans}


def _entry(machine: str, model: str, request: ContextRequest) -> dict[str, Any]:
    asked = {"n_ctx": request.n_ctx, "kv_type": request.kv_type}
    try:
        plan = plan_best(read_outline(model), parse_machine(machine), request)
    except DoesNotFit as error:
        return {**asked, "fits": False, "message": error.message, "hint": error.hint}
    return {**asked, "fits": True, **_facts(plan)}


def _facts(plan: RunPlan) -> dict[str, Any]:
    name = f"Qwen/{plan.model.outline.name}"
    road = vllm_road(plan, name, "hub")
    offload = plan.placement.offload
    speed = plan.speed
    return {
        "quant": plan.model.quant,
        "file_gb": round(plan.model.file_bytes / 1e9, 1),
        "weights_in": plan.placement.tier,
        "gib": {
            one.name: {part: round(size / GIB, 2) for part, size in one.parts.items()}
            for one in plan.placement.memories
        },
        "ram_slots": None if offload is None else [min(offload.n_slots), max(offload.n_slots)],
        "device_slots": None if offload is None else [one.n_slots for one in offload.devices.budgets],
        "prefill_tokens_s": _rounded(speed.prefill.tokens_s),
        "prefill_bound_by": speed.prefill.bound_by,
        "decode_tokens_s": _rounded(speed.decode.tokens_s),
        "decode_bound_by": speed.decode.bound_by,
        "decode_full_tokens_s": _rounded(speed.decode_full.tokens_s),
        "n_ctx_same": plan.n_ctx_same,
        "n_ctx_most": plan.n_ctx_most,
        "notes": list(plan.context.notes),
        "commands": list(run_commands(plan, name, "hub")),
        "vllm": road.serve if road and road.fits else None,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
