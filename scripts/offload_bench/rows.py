"""From measurements to rows, and from rows to a table. Pure.

A row says for one shape, memory limit, phase and state what stock llama.cpp and what qwenctl reached: medians over the
rounds. Stock is the better of its two arrangements of weights with its own micro-batch of 512 tokens; the best of what
else a user could have set (a larger micro-batch) is told beside it as tuned. Whatever was not measured is null. The
first run of a process also says how long it was from opening the model to the first token, and how long the disk needs
for what was read by then.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .task import Phase, Report, Result

OURS = "qwenctl"

_COLUMNS = (
    "shape",
    "memory",
    "phase",
    "state",
    "stock",
    "qwenctl",
    "ratio",
    "tuned",
    "hits",
    "read",
    "bound",
    "waited",
    "us/layer",
)


@dataclass(frozen=True, slots=True)
class Place:
    """What a row is about."""

    shape: str
    memory_fraction: float
    phase: Phase
    state: str


@dataclass(slots=True)
class Measurements:
    """All results so far: by place, and by OURS or the name of stock's setting."""

    n_experts_used: int = 8
    disk_bytes_per_s: float = 0.0
    _results: dict[Place, dict[str, list[tuple[Result, Mapping[str, Any]]]]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    _tuned: set[str] = field(default_factory=set)

    def add(self, shape: str, memory_fraction: float, who: str, report: Report, *, is_tuned: bool = False) -> None:
        """Take what a child said; `is_tuned`: of stock with settings that are not its own."""
        if is_tuned:
            self._tuned.add(who)
        if report.error:
            self.errors.append(f"{shape}, {memory_fraction:.0%}, {who}: {report.error}")
        before: Mapping[str, Any] = {}
        for result in report.results:
            place = Place(shape, memory_fraction, result.phase, result.state)
            facts = run_facts(result, before, self.n_experts_used)
            if result is report.results[0] and report.load_s is not None:
                facts["first_token_s"] = report.load_s + result.first_token_s
            self._results.setdefault(place, {}).setdefault(who, []).append((result, facts))
            before = result.stats or {}

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each place, warm ones first."""
        places = sorted(self._results.items(), key=lambda item: (item[0].shape, item[0].state == "cold"))
        return [self._row(place, by_engine) for place, by_engine in places]

    def _row(self, place: Place, by_engine: Mapping[str, Sequence[tuple[Result, Mapping[str, Any]]]]) -> dict[str, Any]:
        rates = {who: statistics.median(one.tokens_per_s for one, _ in found) for who, found in by_engine.items()}
        ours = rates.pop(OURS, None)
        best = max(rates.keys() - self._tuned, key=lambda who: rates[who], default=None)
        tuned = max(rates, key=lambda who: rates[who], default=None)
        stock = rates[best] if best else None
        tuned_rate = rates[tuned] if tuned in self._tuned else None
        found = by_engine.get(OURS, ())
        bound = self._disk_bound([result for result, _ in found])
        return {
            "shape": place.shape,
            "memory_fraction": place.memory_fraction,
            "phase": place.phase,
            "state": place.state,
            "stock_tokens_per_s": _rounded(stock),
            "qwenctl_tokens_per_s": _rounded(ours),
            "ratio": _rounded(ours / stock if ours and stock else None),
            "hit_rate": _rounded(_median(facts.get("hit_rate") for _, facts in found), 4),
            "overhead_us_per_layer": _rounded(_median(facts.get("overhead_us_per_layer") for _, facts in found), 1),
            "bytes_read": _whole(_median(result.read_bytes for result, _ in found)),
            "stock_bytes_read": _whole(_median(result.read_bytes for result, _ in by_engine[best])) if best else None,
            "waited_s": found[-1][1].get("waited_s") if found else None,
            "disk_bound_tokens_per_s": _rounded(bound),
            "ratio_to_bound": _rounded(ours / bound if ours and bound else None),
            "first_token_s": _rounded(_median(facts.get("first_token_s") for _, facts in found)),
            "first_token_disk_s": _rounded(self._first_token_disk_s(found)),
            "stock_first_token_s": _rounded(
                _median(facts.get("first_token_s") for _, facts in by_engine.get(best, ()))
            ),
            "stock_setting": best,
            "tuned_stock_tokens_per_s": _rounded(tuned_rate),
            "ratio_to_tuned": _rounded(ours / tuned_rate if ours and tuned_rate else None),
            "tuned_stock_setting": tuned if tuned_rate else None,
            "stock_all_tokens_per_s": {who: _rounded(rate) for who, rate in rates.items()},
            "n_rounds": max(len(found) for found in by_engine.values()),
        }

    def _disk_bound(self, results: Sequence[Result]) -> float | None:
        """Return the rate if the disk were never idle and nothing else took time: what was read had to be read."""
        rates = [one.n_tokens * self.disk_bytes_per_s / one.read_bytes for one in results if one.read_bytes]
        return statistics.median(rates) if rates and self.disk_bytes_per_s else None

    def _first_token_disk_s(self, found: Sequence[tuple[Result, Mapping[str, Any]]]) -> float | None:
        """Return the time that the disk needs for what was read until the first token of a new process."""
        read = _median(result.first_token_read_bytes for result, facts in found if "first_token_s" in facts)
        return read / self.disk_bytes_per_s if read and self.disk_bytes_per_s else None


def run_facts(result: Result, before: Mapping[str, Any], n_experts_used: int) -> dict[str, Any]:
    """Return what the scheduler counted during a run: its statistics run on from the opening of the model.

    Args:
        result: of the run, with the statistics after it.
        before: the statistics before it; {} for the first.
        n_experts_used: experts a token in a layer.
    """
    stats = result.stats or {}
    facts: dict[str, Any] = {}
    if result.phase == "decode":
        facts["overhead_us_per_layer"] = stats.get("overhead_us_per_layer")
        facts["hit_rate"] = stats.get("hit_rate")
        n_uses = n_experts_used * (stats.get("token_steps", 0) - before.get("token_steps", 0))
        if n_uses and "token_misses" in stats:
            facts["hit_rate"] = 1 - (stats["token_misses"] - before.get("token_misses", 0)) / n_uses
    else:
        facts["hit_rate"] = stats.get("batch_hit_rate")
    waited, waited_before = stats.get("waited_s"), before.get("waited_s")
    if isinstance(waited, dict):
        waited_before = waited_before if isinstance(waited_before, dict) else {}
        facts["waited_s"] = {cause: round(s - waited_before.get(cause, 0.0), 3) for cause, s in waited.items()}
    return facts


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows as aligned text."""
    lines = [_COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    def number(key: str, pattern: str) -> str:
        return "-" if row[key] is None else pattern.format(row[key])

    waited = " ".join(f"{cause} {s:.1f} s" for cause, s in (row["waited_s"] or {}).items() if s >= 0.05)
    return (
        row["shape"],
        f"{row['memory_fraction']:.0%}",
        row["phase"],
        row["state"],
        number("stock_tokens_per_s", "{:.2f}") + (f" ({row['stock_setting']})" if row["stock_setting"] else ""),
        number("qwenctl_tokens_per_s", "{:.2f}"),
        number("ratio", "{:.2f}"),
        "-" if row["ratio_to_tuned"] is None else f"{row['ratio_to_tuned']:.2f} ({row['tuned_stock_setting']})",
        number("hit_rate", "{:.1%}"),
        "-" if row["bytes_read"] is None else f"{row['bytes_read'] / 1e9:.2f} GB",
        number("disk_bound_tokens_per_s", "{:.1f}"),
        waited or "-",
        number("overhead_us_per_layer", "{:.0f}"),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
