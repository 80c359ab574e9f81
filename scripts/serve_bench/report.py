"""What is made of the measurements: medians, ratios against the targets, and a table. Pure but for printing."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .measure import Cell
from .servers import LLAMA_SERVER, OURS, PYTHON_SERVER

TARGETS = {LLAMA_SERVER: 0.95, PYTHON_SERVER: 2.0}


def findings(
    cells: Sequence[Cell], first: Sequence[Mapping[str, float]], batch: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Return the medians of a model's measurements."""
    loads = sorted({(one.load.concurrency, one.stream) for one in cells})
    return {
        "throughput": [_load(cells, concurrency, stream) for concurrency, stream in loads],
        "first_token": _first_tokens(first),
        "batch": _batch(batch),
    }


def _load(cells: Sequence[Cell], concurrency: int, stream: bool) -> dict[str, Any]:
    here = [one for one in cells if (one.load.concurrency, one.stream) == (concurrency, stream)]
    sides = {name: [one for one in here if one.server == name] for name in dict.fromkeys(one.server for one in here)}
    return {
        "concurrency": concurrency,
        "stream": stream,
        "servers": {name: _side(side) for name, side in sides.items()},
        # Rounds are paired: whatever slowed one server in a round was there for the others, too.
        "ours_by_theirs": {
            name: round(statistics.median(_ratios(sides[OURS], side)), 3)
            for name, side in sides.items()
            if name != OURS and OURS in sides
        },
    }


def _side(cells: Sequence[Cell]) -> dict[str, Any]:
    return {
        "tokens_per_s": round(statistics.median(one.load.tokens_per_s for one in cells), 1),
        "cpu_ms_per_token": round(
            statistics.median(1000 * one.cpu_s / max(1, one.load.n_generated_tokens) for one in cells), 3
        ),
        "first_text_ms": _milliseconds(one.load.first_text_s[0] for one in cells if one.load.first_text_s),
        "generated_tokens": sum(one.load.n_generated_tokens for one in cells),
        "prompt_tokens": sum(one.load.n_prompt_tokens for one in cells),
        "failed": sum(one.load.n_failed for one in cells),
    }


def _ratios(ours: Sequence[Cell], theirs: Sequence[Cell]) -> list[float]:
    return [one.load.tokens_per_s / max(1e-9, other.load.tokens_per_s) for one, other in zip(ours, theirs, strict=True)]


def _first_tokens(first: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Prompts of about the same length are one row: every third in their order."""
    rows = []
    n_lengths = 3
    for length in range(min(n_lengths, len(first))):
        some = first[length::n_lengths]
        names = [name for name in some[0] if name not in ("n_tokens", "bare")]
        rows.append(
            {
                "prompt_tokens": round(statistics.median(one["n_tokens"] for one in some)),
                "bare_ms": _milliseconds(one["bare"] for one in some) or 0.0,
                "servers": {name: _over_bare(some, name) for name in names},
            }
        )
    return rows


def _over_bare(first: Sequence[Mapping[str, float]], name: str) -> dict[str, float]:
    return {
        "ms": _milliseconds(one[name] for one in first) or 0.0,
        "overhead_percent": round(100 * statistics.median(one[name] / one["bare"] - 1 for one in first), 1),
    }


def _batch(batch: Sequence[Mapping[str, float]]) -> dict[str, float]:
    medians = {name: round(statistics.median(one[name] for one in batch), 1) for name in batch[0]}
    return {**medians, "batch_by_engine": round(statistics.median(one["batch"] / one["engine"] for one in batch), 3)}


def _milliseconds(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return round(1000 * statistics.median(numbers), 2) if numbers else None


def print_report(document: Mapping[str, Any]) -> None:
    """Print tables."""
    machine, versions = document["machine"], document["versions"]
    print(
        f"{machine['cpu']}, {machine['cores']} cores, load {machine['load']}; llama-cpp-python {versions['llama_cpp']}"
    )
    print(f"{document['threads']} threads, answers of {document['max_tokens']} tokens, {document['rounds']} rounds")
    for name, result in document["models"].items():
        print(f"\n{name}: tokens/s (CPU ms a token; ms to the first text)")
        for load in result["throughput"]:
            _print_load(load)
        for row in result["first_token"]:
            sides = (f"{name} {one['ms']} ms: {one['overhead_percent']:+.1f} %" for name, one in row["servers"].items())
            print(
                f"  first token, {row['prompt_tokens']} tokens (target: at most +5 %): bare {row['bare_ms']} ms, "
                + ", ".join(sides)
            )
        batch = result["batch"]
        print(
            f"  batch {batch['batch']}, engine {batch['engine']}, bare llama_decode {batch['llama_decode']} tokens/s: "
            f"{batch['batch_by_engine']} of the engine (target: at least 0.95)"
        )


def _print_load(load: Mapping[str, Any]) -> None:
    print(f"  {load['concurrency']} at a time, {'streamed' if load['stream'] else 'in one piece'}")
    for name, side in load["servers"].items():
        first = f"; {side['first_text_ms']}" if side["first_text_ms"] is not None else ""
        ratio = load["ours_by_theirs"].get(name)
        target = f" (target: {TARGETS[name]})" if load["concurrency"] == 8 and name in TARGETS else ""
        by = f"   ours {ratio} ×{target}" if ratio is not None else ""
        failed = f"   {side['failed']} FAILED" if side["failed"] else ""
        print(f"    {name:18} {side['tokens_per_s']:9.1f} ({side['cpu_ms_per_token']:.2f}{first}){by}{failed}")
