"""How far the chosen eviction and quotas get from plain LRU towards Belady's optimum.

Replays without weights: the recorded routing of the demo model, and routing made up with the locality that was
published for Qwen3-30B-A3B (12, 24 and 48 layers) and for Qwen3.8-Flash-Next. All policies have the same number of
slots in total; lru, heat, static and belady have them in equal shares.

    heat       the chosen eviction without the chosen quotas
    bel. q     Belady's rule with the quotas that the chosen policy ended with
    closed     (chosen - lru) / (belady - lru), in hits

About three minutes; `--quick` half a minute.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qwenctl.moe.belady import BeladyPool  # noqa: E402
from qwenctl.moe.replay import replay  # noqa: E402
from qwenctl.moe.synthetic_trace import QWEN3_8_FLASH_NEXT, QWEN3_30B_A3B, synthetic_trace  # noqa: E402
from qwenctl.telemetry.routing_steps import RoutingTrace  # noqa: E402
from tests.moe.demo_routing import demo_trace  # noqa: E402


@dataclass(frozen=True, slots=True)
class Row:
    """One trace at one size; hit rates 0 … 1."""

    trace: str
    fraction: float
    lru: float
    heat: float
    chosen: float
    static: float
    belady: float
    belady_q: float
    closed: float
    n_moved: int


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1, 0.25, 0.4, 0.5, 0.6, 0.75])
    parser.add_argument("--quick", action="store_true", help="the demo model and twelve layers only")
    parser.add_argument("--json", action="store_true", help="an array of rows")
    arguments = parser.parse_args()
    rows = []
    if not arguments.json:
        names = ("lru", "heat", "chosen", "static", "belady", "bel. q", "closed")
        print(f"{'trace':<28}{'slots':>6}" + "".join(f"{name:>8}" for name in names))
    for name, trace in traces(arguments.quick):
        for fraction in arguments.fractions:
            row = measure(name, trace, fraction)
            rows.append(row)
            if not arguments.json:
                rates = (row.lru, row.heat, row.chosen, row.static, row.belady, row.belady_q)
                figures = "".join(f"{rate:>8.2%}" for rate in rates)
                print(f"{name:<28}{fraction:>6.0%}{figures}{row.closed:>8.0%}", flush=True)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))


def traces(quick: bool) -> Iterator[tuple[str, RoutingTrace]]:
    """Yield each trace with its name."""
    yield "demo, recorded", demo_trace()
    yield "30B, 12 layers x 2000", synthetic_trace(QWEN3_30B_A3B, 12, 2000, seed=5)
    if not quick:
        yield "30B, 24 layers x 1500", synthetic_trace(QWEN3_30B_A3B, 24, 1500, seed=1)
        yield "30B, 48 layers x 1500", synthetic_trace(QWEN3_30B_A3B, 48, 1500, seed=11)
        yield "Flash-Next, 8 layers x 340", synthetic_trace(QWEN3_8_FLASH_NEXT, 8, 340, seed=1)


def measure(name: str, trace: RoutingTrace, fraction: float) -> Row:
    """Replay every policy with slots for `fraction` of all experts."""
    n_layers = len(trace.layers)
    n_slots = max(n_layers * trace.n_used, round(n_layers * trace.n_experts * fraction))
    lru = replay(trace, "lru", n_slots).hit_rate
    heat = replay(trace, "heat", n_slots).hit_rate
    chosen = replay(trace, "chosen", n_slots)
    static = replay(trace, "static", n_slots).hit_rate
    belady = replay(trace, "belady", n_slots).hit_rate
    with_quotas = belady_hit_rate(trace, chosen.n_slots)
    closed = (chosen.hit_rate - lru) / (belady - lru) if belady > lru else 0.0
    return Row(name, fraction, lru, heat, chosen.hit_rate, static, belady, with_quotas, closed, chosen.n_moved)


def belady_hit_rate(trace: RoutingTrace, quotas: tuple[int, ...]) -> float:
    """Return Belady's hit rate with these slots for each of the trace's layers."""
    n_hits = n_wanted = 0
    for layer, n_slots in zip(trace.layers, quotas, strict=True):
        steps = [step.distinct() for step in trace.of_layer(layer)]
        pool = BeladyPool(trace.n_experts, n_slots, steps)
        for step in steps:
            absent = pool.use(step)
            n_wanted += len(step)
            n_hits += len(step) - len(absent)
            if len(step) <= n_slots:
                for expert in absent:
                    pool.admit(expert, step)
    return n_hits / n_wanted


if __name__ == "__main__":
    main()
