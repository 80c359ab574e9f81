"""What a machine does in a second with a prompt: a value that is measured, assumed or described. Knows no model."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from math import inf


@dataclass(frozen=True, slots=True)
class PrefillRates:
    """What a machine does in a second; the defaults are a slow disk's and a small CPU's, until calibrated.

    Attributes:
        disk_bytes_s: of experts read.
        expert_macs_s: (tokens an expert, MAC/s).
        dense_macs_s: of all else.
        arrange_bytes_s: of the file's bytes brought into the slots' layout by all cores; infinite where they stay as
            they are.

    Raises:
        ValueError: a rate that is not above zero, or no expert rates in ascending order of tokens.
    """

    disk_bytes_s: float = 1.5e9
    expert_macs_s: tuple[tuple[float, float], ...] = ((1, 40e9), (32, 60e9), (512, 120e9))
    dense_macs_s: float = 120e9
    arrange_bytes_s: float = inf

    def __post_init__(self) -> None:
        tokens = [n_tokens for n_tokens, _ in self.expert_macs_s]
        if not tokens or any(a >= b for a, b in pairwise(tokens)):
            raise ValueError("expert_macs_s needs numbers of tokens in ascending order")
        expert_rates = (rate for _, rate in self.expert_macs_s)
        if min(self.disk_bytes_s, self.dense_macs_s, self.arrange_bytes_s, *expert_rates) <= 0:
            raise ValueError("rates must be above zero")

    def expert_rate(self, n_tokens: float) -> float:
        """Return MAC/s at `n_tokens` an expert: between measured ones in proportion, beyond them the nearest."""
        points = self.expert_macs_s
        position = bisect_left(points, (n_tokens, 0.0))
        if position == 0:
            return points[0][1]
        if position == len(points):
            return points[-1][1]
        (left, low), (right, high) = points[position - 1], points[position]
        return low + (high - low) * (n_tokens - left) / (right - left)
