"""What the answers to a load say: rate, time to first text, and the gaps between pieces of text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from qwenctl.services.bench.http_load import Answered


@dataclass(frozen=True, slots=True)
class LoadRow:
    """One number of requests at a time."""

    concurrency: int
    n_requests: int
    n_failed: int
    n_prompt_tokens: int
    n_generated_tokens: int
    wall_s: float
    tokens_per_s: float  # generated
    requests_per_s: float
    first_text_s: tuple[float, float, float] | None  # the 50th, 95th and 99th percentile; None: no text came
    gap_s: tuple[float, float, float] | None  # between two pieces of text of an answer
    error: str | None  # the first


def load_row(concurrency: int, answers: Sequence[Answered], wall_s: float) -> LoadRow:
    """Return the row of a load that took `wall_s` by the clock."""
    good = [one for one in answers if one.error is None]
    n_generated = sum(one.n_generated_tokens for one in good)
    return LoadRow(
        concurrency=concurrency,
        n_requests=len(answers),
        n_failed=len(answers) - len(good),
        n_prompt_tokens=sum(one.n_prompt_tokens for one in good),
        n_generated_tokens=n_generated,
        wall_s=wall_s,
        tokens_per_s=n_generated / wall_s,
        requests_per_s=len(good) / wall_s,
        first_text_s=percentiles([one.first_text_s for one in good if one.first_text_s is not None]),
        gap_s=percentiles([later - earlier for one in good for earlier, later in pairwise(one.text_times_s)]),
        error=next((one.error for one in answers if one.error is not None), None),
    )


def percentiles(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Return the 50th, 95th and 99th percentile, each a value that occurred (nearest rank); None without values."""
    if not values:
        return None
    ordered = sorted(values)
    p50, p95, p99 = (ordered[max(0, -(-share * len(ordered) // 100) - 1)] for share in (50, 95, 99))
    return p50, p95, p99
