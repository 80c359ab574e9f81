"""What computing, reading and uploading an expert costs on this machine, as values that follow what is measured.

A curve gives the seconds one expert takes for a number of tokens: few tokens cost the reading of its weights, many the
arithmetic. Between measured points it is straight, after the last one proportional. Each measurement moves the points
that predicted it by an exponential moving average. Pure: knows nothing of clocks, devices or files.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

EMA_WEIGHT = 0.1
# One measurement moves a cost by at most this factor: a step that the machine slept through is no news about the CPU.
_LARGEST_RATIO = 4.0


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Seconds that one expert takes, by its number of tokens.

    Args:
        n_tokens: where it was measured, rising, from 1 up.
        seconds: seconds for one expert there; positive, not falling.

    Raises:
        ValueError: no points, or points that no machine has.
    """

    n_tokens: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.n_tokens or len(self.n_tokens) != len(self.seconds):
            raise ValueError(f"{len(self.n_tokens)} numbers of tokens for {len(self.seconds)} times")
        if self.n_tokens[0] < 1 or any(a >= b for a, b in zip(self.n_tokens, self.n_tokens[1:], strict=False)):
            raise ValueError(f"numbers of tokens must rise from 1 up: {self.n_tokens}")
        if not all(0 < s < float("inf") for s in self.seconds):
            raise ValueError(f"seconds must be positive: {self.seconds}")
        if any(a > b for a, b in zip(self.seconds, self.seconds[1:], strict=False)):
            raise ValueError(f"more tokens cannot take less time: {self.seconds}")

    def __call__(self, n_tokens: int) -> float:
        """Return the seconds of one expert with that many tokens."""
        if n_tokens <= self.n_tokens[0]:
            return self.seconds[0]
        right = bisect_right(self.n_tokens, n_tokens)
        if right == len(self.n_tokens):
            return self.seconds[-1] * n_tokens / self.n_tokens[-1]
        n0, n1 = self.n_tokens[right - 1], self.n_tokens[right]
        s0, s1 = self.seconds[right - 1], self.seconds[right]
        return s0 + (s1 - s0) * (n_tokens - n0) / (n1 - n0)

    def total(self, counts: Sequence[int]) -> float:
        """Return the seconds of several experts, one number of tokens each, one after the other."""
        return sum(self(n) for n in counts)

    def updated(self, counts: Sequence[int], measured_s: float, weight: float = EMA_WEIGHT) -> CostCurve:
        """Return the curve after `counts` experts took `measured_s` together.

        The points that predicted it, and those between them, move by one factor; the others only give way, so that
        more tokens never cost less.
        """
        if not counts or measured_s <= 0:
            return self
        factor = _factor(measured_s / self.total(counts), weight)
        used = [index for n in counts for index in self._points_of(n)]
        first, last = min(used), max(used)
        moved = [s * factor for s in self.seconds[first : last + 1]]
        before = [min(s, moved[0]) for s in self.seconds[:first]]
        after = [max(s, moved[-1]) for s in self.seconds[last + 1 :]]
        return CostCurve(self.n_tokens, (*before, *moved, *after))

    def _points_of(self, n_tokens: int) -> tuple[int, ...]:
        right = bisect_right(self.n_tokens, n_tokens)
        if right == 0 or right == len(self.n_tokens) or self.n_tokens[right - 1] == n_tokens:
            return (max(right - 1, 0),)
        return (right - 1, right)


@dataclass(frozen=True, slots=True)
class Costs:
    """What a layer's work costs, in seconds. One object for each device; the CPU's part is the same in all of them.

    Args:
        cpu: one expert on the CPU.
        device: one expert on the device.
        device_call_s: added once when the device computes at all: launch, the rows in and out, the wait.
        disk_s_per_expert: reading one expert from disk into RAM, queue full.
        upload_s_per_expert: copying one expert from RAM to the device while the CPU is idle.
        loaded_upload_s_per_expert: the same while the CPU computes, both drawing on the same memory.
    """

    cpu: CostCurve
    device: CostCurve
    device_call_s: float
    disk_s_per_expert: float
    upload_s_per_expert: float
    loaded_upload_s_per_expert: float

    def __post_init__(self) -> None:
        if self.device_call_s < 0:
            raise ValueError(f"a device call of {self.device_call_s} s")
        for name in ("disk_s_per_expert", "upload_s_per_expert", "loaded_upload_s_per_expert"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}")

    def with_upload(self, upload_s: float) -> Costs:
        """Return the same with another time for an upload, as much longer under load as before."""
        if upload_s == self.upload_s_per_expert or not self.upload_s_per_expert:
            return self
        under_load = self.loaded_upload_s_per_expert / self.upload_s_per_expert
        return replace(self, upload_s_per_expert=upload_s, loaded_upload_s_per_expert=upload_s * under_load)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one step of one layer took; zero and empty where nothing was measured.

    Args:
        cpu_counts, cpu_s: tokens of each expert the CPU computed, and the seconds of them all.
        device_counts, device_s: the same of the device, from start to the end of the wait.
        n_loads, load_s: experts read from disk, and the seconds from the first request to the last arrival.
        n_uploads, upload_s: experts copied to the device, and their seconds.
        uploads_under_load: whether the CPU computed meanwhile.
    """

    cpu_counts: tuple[int, ...] = ()
    cpu_s: float = 0.0
    device_counts: tuple[int, ...] = ()
    device_s: float = 0.0
    n_loads: int = 0
    load_s: float = 0.0
    n_uploads: int = 0
    upload_s: float = 0.0
    uploads_under_load: bool = False


def updated(costs: Costs, measured: Measured, weight: float = EMA_WEIGHT) -> Costs:
    """Return the costs after a measurement: each moves towards what was seen by `weight` of the way."""
    changes: dict[str, object] = {"cpu": costs.cpu.updated(measured.cpu_counts, measured.cpu_s, weight)}
    if measured.device_counts and measured.device_s > 0:
        predicted = costs.device_call_s + costs.device.total(measured.device_counts)
        share = measured.device_s / predicted  # both parts of the prediction were as wrong as their sum
        compute_s = costs.device.total(measured.device_counts) * share
        changes["device"] = costs.device.updated(measured.device_counts, compute_s, weight)
        changes["device_call_s"] = costs.device_call_s * _factor(share, weight)
    if measured.n_loads and measured.load_s > 0:
        per_expert = measured.load_s / measured.n_loads
        changes["disk_s_per_expert"] = _moved(costs.disk_s_per_expert, per_expert, weight)
    if measured.n_uploads and measured.upload_s > 0:
        name = "loaded_upload_s_per_expert" if measured.uploads_under_load else "upload_s_per_expert"
        changes[name] = _moved(getattr(costs, name), measured.upload_s / measured.n_uploads, weight)
    return replace(costs, **changes)  # type: ignore[arg-type]


def _moved(old: float, seen: float, weight: float) -> float:
    return old * _factor(seen / old, weight) if old > 0 else seen * weight


def _factor(ratio: float, weight: float) -> float:
    return 1.0 + weight * (min(max(ratio, 1.0 / _LARGEST_RATIO), _LARGEST_RATIO) - 1.0)
