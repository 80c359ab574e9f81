"""How a run's tokens were routed: is it like a trained model? Figures beside those published for Qwen3-30B-A3B.

Prompts are left out: only what is generated token by token has an order that a cache lives on. Knows nothing of
engines; reads the trace that one wrote.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from qwenctl.telemetry.routing_counts import count_uses
from qwenctl.telemetry.routing_steps import RoutingTrace
from qwenctl.telemetry.routing_trace import TraceReader

PUBLISHED = {
    "repeated_from_last_token": 0.45,
    "median_reuse_tokens": 2.0,
    "experts_for_90_percent": 61.0,
    "lru_hits_at_40_percent": 0.92,
    "lru_hits_at_25_percent": 0.80,
}
"""Qwen3-30B-A3B, 128 experts of which 8 are used: imp #1359, BigMoeOnEdge's replay (top 6), mcp-tool-shop."""

_WARM_UP_TOKENS = 48  # not counted for hits: every cache is empty once


def routing_facts(trace_file: Path) -> dict[str, float]:
    """Return the means over layers, by the names in PUBLISHED and `entropy`; {} where fewer than 2 tokens follow."""
    reader = TraceReader(trace_file)
    header = reader.header
    steps = [step for step in reader.steps() if step.n_tokens == 1]
    trace = RoutingTrace(header.n_layers, header.n_experts, header.n_used, tuple(steps))
    if trace.n_tokens < 2:
        return {}
    uses = count_uses(trace)
    layers = [[step.ids for step in trace.of_layer(layer)] for layer in trace.layers]
    return {
        "repeated_from_last_token": fmean(use.repeat_rate or 0.0 for use in uses),
        "median_reuse_tokens": fmean(use.median_reuse_tokens or 0.0 for use in uses),
        "experts_for_90_percent": fmean(use.n_for_90 for use in uses),
        "lru_hits_at_40_percent": fmean(lru_hits(tokens, int(0.4 * header.n_experts)) for tokens in layers),
        "lru_hits_at_25_percent": fmean(lru_hits(tokens, header.n_experts // 4) for tokens in layers),
        "entropy": fmean(use.entropy for use in uses),
    }


def lru_hits(tokens: Sequence[Sequence[int]], n_slots: int) -> float:
    """Return the hit rate of an LRU over `n_slots` experts, after a warm-up of a third of the tokens at most."""
    warm_up = min(_WARM_UP_TOKENS, len(tokens) // 3)
    slots: OrderedDict[int, None] = OrderedDict()
    hits = n_uses = 0
    for number, experts in enumerate(tokens):
        for expert in experts:
            if number >= warm_up:
                n_uses += 1
                hits += expert in slots
            slots[expert] = None
            slots.move_to_end(expert)
        while len(slots) > n_slots:
            slots.popitem(last=False)
    return hits / n_uses if n_uses else 0.0
