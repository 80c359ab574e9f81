#!/usr/bin/env python3
"""Write the golden files of `qwenctl plan`: the rows that users ask about.

scripts/make_plan_goldens.py            write tests/planning/goldens/*.json
scripts/make_plan_goldens.py --check    say which differ; exit 1 if any does
scripts/make_plan_goldens.py --table    print all rows as one table
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.plan_check.goldens import FOLDER, ROWS, golden


def main() -> int:
    """Write, compare or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--table", action="store_true", help="write nothing, print")
    options = parser.parse_args()
    differing = []
    FOLDER.mkdir(parents=True, exist_ok=True)
    for machine, model in ROWS.items():
        made, path = golden(machine, model), FOLDER / f"{machine}.json"
        text = json.dumps(made, indent=1) + "\n"
        if options.table:
            for plan in made["plans"]:
                print(row(machine, plan))
        elif options.check:
            if not path.is_file() or path.read_text() != text:
                differing.append(path.name)
        else:
            path.write_text(text)
    for name in differing:
        print(f"{name} differs", file=sys.stderr)
    return int(bool(differing))


def row(machine: str, plan: dict[str, Any]) -> str:
    """Return one line."""
    start = f"{machine:11} {plan['n_ctx'] // 1024:5}K {plan['kv_type']:5}"
    if not plan["fits"]:
        return f"{start} does not fit: {plan['message']}"
    slots = f"{plan['ram_slots']}+{plan['device_slots']}" if plan["ram_slots"] else "-"
    return (
        f"{start} {plan['quant']:7} {plan['file_gb']:6.1f} GB {plan['weights_in']:8} {slots:18} "
        f"pp {plan['prefill_tokens_s']:7g} tg {plan['decode_tokens_s']:6g} full {plan['decode_full_tokens_s']:6g} "
        f"ctx {plan['n_ctx_same'] // 1024:5}K/{plan['n_ctx_most'] // 1024}K  {plan['decode_bound_by']}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
