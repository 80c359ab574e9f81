"""What became of offloaded experts, as lines of --stats: where they are, how often they were there, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qwenctl.units import format_bytes, format_memory, format_seconds

_PARTS = (
    ("experts", "experts"),
    ("ring", "passing experts"),
    ("dense", "dense part"),
    ("kv", "KV cache"),
    ("compute", "activations"),
    ("base", "program"),
    ("margin", "margin"),
)


def offload_pairs(stats: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values for people.

    Args:
        stats: of Engine.offload_stats.
    """
    placement = stats["placement"]
    few, many = min(placement["n_slots"]), max(placement["n_slots"])
    slots = f"{few}" if few == many else f"{few} to {many}"
    operation = "a product an expert" if stats["operation"] == "expert" else "one product for all experts"
    pairs = [
        ("experts", f"slots for {slots} of {placement['n_experts']} a layer, {placement['layout']}, {operation}"),
        ("memory", " · ".join(f"{name} {format_memory(placement[f'{part}_bytes'])}" for part, name in _PARTS)),
        ("budget", f"{format_memory(placement['budget_bytes'])}, {format_memory(placement['free_bytes'])} unused"),
        ("found there", f"{_share(stats['hit_rate'])} generating, {_share(stats['batch_hit_rate'])} of prompts"),
        ("read", f"{format_bytes(stats['bytes_read'])} in {stats['n_reads']} pieces"),
    ]
    waited, computed = stats["waited_s"], stats["computed_s"]
    for phase, name in (("decode", "generating"), ("prefill", "prompts")):
        value = f"{format_seconds(waited[phase])} waited for experts, {format_seconds(computed[phase])} computed"
        pairs.append((name, value))
    if (overhead := stats["overhead_us_per_layer"]) is not None:
        pairs.append(("overhead", f"{overhead:.0f} µs a layer and token"))
    return pairs


def _share(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.1%}"
