"""What the expert scheduler did, counted: hits, loads, waits, its own time. Plain numbers; knows nothing of how."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

_KEPT = 8192  # samples of the scheduler's own time


@dataclass(slots=True)
class PhaseCounts:
    """Counters of steps of one kind. A step is one layer of one batch; times in nanoseconds."""

    n_steps: int = 0
    hits: int = 0
    misses: int = 0
    wait_ns: int = 0
    compute_ns: int = 0

    def count(self, n_wanted: int, n_absent: int) -> None:
        """Note a step that wanted so many experts, some of them absent."""
        self.n_steps += 1
        self.hits += n_wanted - n_absent
        self.misses += n_absent


@dataclass(slots=True)
class OffloadStats:
    """Counters since the model was opened, or since `reset`.

    Attributes:
        token: steps of a single token.
        batch: steps of several tokens.
    """

    token: PhaseCounts = field(default_factory=PhaseCounts)
    batch: PhaseCounts = field(default_factory=PhaseCounts)
    n_evicted: int = 0
    n_streamed: int = 0
    n_prefetched: int = 0
    n_moved: int = 0
    n_prefetch_used: int = 0
    resident_overhead_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_KEPT))
    missing_overhead_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def of(self, n_tokens: int) -> PhaseCounts:
        """Return the counters of steps of so many tokens."""
        return self.token if n_tokens == 1 else self.batch

    def reset(self) -> None:
        """Start from zero."""
        fresh = OffloadStats()
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))

    def with_path(self, n_steps: int, n_hits: int, compute_ns: int, own_ns: list[int]) -> OffloadStats:
        """Return these counters with the compiled path's added."""
        token = replace(
            self.token,
            n_steps=self.token.n_steps + n_steps,
            hits=self.token.hits + n_hits,
            compute_ns=self.token.compute_ns + compute_ns,
        )
        own = deque([*self.resident_overhead_ns, *own_ns], maxlen=_KEPT)
        return replace(self, token=token, resident_overhead_ns=own)

    def as_json(self) -> dict[str, Any]:
        """Return all of it in units: seconds, microseconds, rates."""
        token, batch = self.token, self.batch
        return {
            "token_steps": token.n_steps,
            "batch_steps": batch.n_steps,
            "hit_rate": _share(token.hits, token.misses),
            "batch_hit_rate": _share(batch.hits, batch.misses),
            "token_misses": token.misses,
            "batch_misses": batch.misses,
            "evicted": self.n_evicted,
            "streamed": self.n_streamed,
            "quota_changes": self.n_moved,
            "prefetched": self.n_prefetched,
            "prefetch_used": self.n_prefetch_used,
            "waited_s": {"decode": token.wait_ns / 1e9, "prefill": batch.wait_ns / 1e9},
            "computed_s": {"decode": token.compute_ns / 1e9, "prefill": batch.compute_ns / 1e9},
            "overhead_us_per_layer": _median_us(self.resident_overhead_ns),
            "overhead_us_per_layer_with_misses": _median_us(self.missing_overhead_ns),
        }


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest else None


def _median_us(samples: deque[int]) -> float | None:
    return statistics.median(samples) / 1000 if samples else None
