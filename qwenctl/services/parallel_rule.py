"""How many sequences pay at the same time, by what steps took: a rule on numbers. Knows no files and no memory.

A step of n sequences takes a + b n: the weights are read once for all, arithmetic and caches are each sequence's own.
Numbers come from a ladder of powers of two. One more rung is climbed while doubling brings a batch a tenth more tokens
a second, and a server, where somebody waits for each answer, a quarter of the speed of one alone, too.

Measured times vary by some percent from run to run. So that the number does not vary with them, a rung that was taken
the last time needs a fifth less, a new one a quarter more. The line is trusted as far as twice what was measured, and
not further down than half of what was taken the last time: both are measured before the next choice, which mends what
a line promised too much, or a busy machine too little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Literal, NamedTuple

from qwenctl.services.engine_options import MAX_PARALLEL, Purpose

Bound = Literal["gain", "share", "measured"]

_LEAST_CHOSEN = 2  # what is computed alone never shows again what more would bring
_LEAST_GAIN = 0.1  # of a doubling, in tokens/s
_LEAST_SHARE = 0.25  # of the speed that an answer has alone
_KEPT, _NEW = 0.8, 1.25  # times that, for rungs taken the last time and for others
_LEAST_SPREAD = 2  # between the smallest and the largest number of sequences: else a slope is noise


class StepTime(NamedTuple):
    """What steps of some number of sequences took."""

    n_steps: int
    seconds: float  # what one takes when nothing disturbs it


@dataclass(frozen=True, slots=True)
class StepLine:
    """The time of a step: `fixed_s` + n · `sequence_s`.

    Raises:
        ValueError: a part below zero, or nothing but zeros.
    """

    fixed_s: float
    sequence_s: float
    n_measured: int  # the largest number of sequences that it comes from

    def __post_init__(self) -> None:
        if not (self.fixed_s >= 0 and self.sequence_s >= 0 and isfinite(self.seconds(1)) and self.seconds(1) > 0):
            raise ValueError(f"a step of {self.fixed_s} + {self.sequence_s} n seconds")

    def seconds(self, n_parallel: int) -> float:
        """Return how long a step of so many sequences takes."""
        return self.fixed_s + n_parallel * self.sequence_s

    def tokens_s(self, n_parallel: int) -> float:
        """Return the tokens a second of all together."""
        return n_parallel / self.seconds(n_parallel)

    def gain(self, n_parallel: int) -> float:
        """Return what part of the tokens a second twice as many add."""
        return self.tokens_s(2 * n_parallel) / self.tokens_s(n_parallel) - 1

    def share(self, n_parallel: int) -> float:
        """Return how fast each is beside one alone."""
        return self.seconds(1) / self.seconds(n_parallel)


@dataclass(frozen=True, slots=True)
class MeasuredChoice:
    """A rung, what keeps from the next one, and what both come from."""

    n_parallel: int
    bound: Bound
    line: StepLine


def fit_line(steps: Mapping[int, StepTime]) -> StepLine | None:
    """Return the line through times by number of sequences, by least squares of relative errors.

    None: they say nothing of how it rises, because the largest number is not twice the smallest.
    """
    if not steps or max(steps) < _LEAST_SPREAD * min(steps):
        return None
    points = [(n, seconds, n_steps / seconds**2) for n, (n_steps, seconds) in steps.items()]
    weights = sum(weight for _, _, weight in points)
    mean_n = sum(weight * n for n, _, weight in points) / weights
    mean_s = sum(weight * seconds for _, seconds, weight in points) / weights
    slope = sum(weight * (n - mean_n) * (seconds - mean_s) for n, seconds, weight in points)
    slope /= sum(weight * (n - mean_n) ** 2 for n, _, weight in points)
    if slope <= 0:
        return StepLine(mean_s, 0.0, max(steps))
    if (fixed_s := mean_s - slope * mean_n) >= 0:
        return StepLine(fixed_s, slope, max(steps))
    squares = sum(weight * n * n for n, _, weight in points)
    return StepLine(0.0, sum(weight * n * seconds for n, seconds, weight in points) / squares, max(steps))


def choose_measured(purpose: Purpose, line: StepLine, former: int) -> MeasuredChoice:
    """Return the number of sequences that pay: a power of two, at most twice what was measured.

    Args:
        purpose: what for.
        line: what steps take.
        former: the number that was taken the last time.
    """
    chosen = _rung_below(min(former // 2, 2 * line.n_measured))
    while True:
        ease = _KEPT if 2 * chosen <= former else _NEW
        if purpose == "serve" and line.share(2 * chosen) < ease * _LEAST_SHARE:
            return MeasuredChoice(chosen, "share", line)
        if line.gain(chosen) < ease * _LEAST_GAIN:
            return MeasuredChoice(chosen, "gain", line)
        if chosen > line.n_measured or 2 * chosen > MAX_PARALLEL:
            return MeasuredChoice(chosen, "measured", line)
        chosen *= 2


def _rung_below(number: int) -> int:
    return 1 << max(_LEAST_CHOSEN, number).bit_length() - 1
