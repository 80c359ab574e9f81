#!/usr/bin/env python3
"""Hold the plan's figures of memory against llama.cpp's own accounting, at true shapes, without weights.

    scripts/check_plan_memory.py            all cases, in a minute
    scripts/check_plan_memory.py --json

Exits 1 where a total with weights in Q4_K_M, or KV cache and states alone, is off by more than 2 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from quant.recipe import OUTPUT_TYPES
from qwenctl.units import MIB
from scripts.plan_check.memory_cases import CASES, Compared, compare, read_outline
from scripts.plan_check.no_alloc import measure

MOST = 0.02
OUTPUT = OUTPUT_TYPES["q4_k_m"]


def main() -> int:
    """Measure, print, and say whether all is within bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="all figures as a JSON array")
    options = parser.parse_args()
    found: list[Compared] = []
    for name in CASES:
        outline = read_outline(name)
        weights = sum(tensor.n_bytes for tensor in outline.gguf(OUTPUT).tensors.values())
        found += compare(outline, weights, measure(outline, OUTPUT, CASES[name]))
    if options.json:
        print(json.dumps([asdict(one) | {"error": one.error, "context_error": one.context_error} for one in found]))
    else:
        show(found)
    return int(any(abs(one.error) > MOST or abs(one.cells_error) > MOST for one in found))


def show(found: list[Compared]) -> None:
    """Print one line a case."""
    print(
        f"{'model':32} {'cells':>9} {'seq':>3} {'batch':>5} {'kv':>5} fa  {'cache MiB':>17} {'compute MiB':>15}  error"
    )
    for one in found:
        context = one.context
        print(
            f"{one.model:32} {context.n_cells:9,} {context.n_parallel:3} {context.n_ubatch:5} {context.kv_type:>5} "
            f"{'on ' if context.flash else 'off'} {one.planned.cells / MIB:8.0f} "
            f"{one.counted.cells / MIB:8.0f} {one.planned.compute / MIB:7.0f} "
            f"{one.counted.compute / MIB:7.0f}  {one.error:+.2%} ({one.context_error:+.1%} without weights)"
        )
    worst, alone = max(abs(one.error) for one in found), max(abs(one.context_error) for one in found)
    print(f"{len(found)} cases; the worst total {worst:.2%} off, the worst without weights {alone:.1%}")


if __name__ == "__main__":
    raise SystemExit(main())
