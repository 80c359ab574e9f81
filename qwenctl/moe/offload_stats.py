"""What the expert scheduler did, counted: hits, loads, waits, its own time. Plain numbers; knows nothing of how."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

_KEPT = 8192  # samples of the scheduler's own time


@dataclass(slots=True)
class OffloadStats:
    """Counters since the model was opened, or since `reset`. Times in nanoseconds."""

    n_token_steps: int = 0  # layers × decode steps
    n_batch_steps: int = 0  # layers × batches of several tokens
    token_hits: int = 0
    token_misses: int = 0
    batch_hits: int = 0
    batch_misses: int = 0
    n_evicted: int = 0
    n_streamed: int = 0
    n_prefetched: int = 0
    n_moved: int = 0
    n_prefetch_used: int = 0
    wait_token_ns: int = 0
    wait_batch_ns: int = 0
    compute_token_ns: int = 0
    compute_batch_ns: int = 0
    resident_overhead_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_KEPT))
    missing_overhead_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def reset(self) -> None:
        """Start from zero."""
        fresh = OffloadStats()
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))

    def with_path(self, n_steps: int, n_hits: int, compute_ns: int, own_ns: list[int]) -> OffloadStats:
        """Return these counters with the compiled path's added."""
        return replace(
            self,
            n_token_steps=self.n_token_steps + n_steps,
            token_hits=self.token_hits + n_hits,
            compute_token_ns=self.compute_token_ns + compute_ns,
            resident_overhead_ns=deque([*self.resident_overhead_ns, *own_ns], maxlen=_KEPT),
        )

    def as_json(self) -> dict[str, Any]:
        """Return all of it in units: seconds, microseconds, rates."""
        return {
            "token_steps": self.n_token_steps,
            "batch_steps": self.n_batch_steps,
            "hit_rate": _share(self.token_hits, self.token_misses),
            "batch_hit_rate": _share(self.batch_hits, self.batch_misses),
            "token_misses": self.token_misses,
            "batch_misses": self.batch_misses,
            "evicted": self.n_evicted,
            "streamed": self.n_streamed,
            "quota_changes": self.n_moved,
            "prefetched": self.n_prefetched,
            "prefetch_used": self.n_prefetch_used,
            "waited_s": {"decode": self.wait_token_ns / 1e9, "prefill": self.wait_batch_ns / 1e9},
            "computed_s": {"decode": self.compute_token_ns / 1e9, "prefill": self.compute_batch_ns / 1e9},
            "overhead_us_per_layer": _median_us(self.resident_overhead_ns),
            "overhead_us_per_layer_with_misses": _median_us(self.missing_overhead_ns),
        }


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest else None


def _median_us(samples: deque[int]) -> float | None:
    return statistics.median(samples) / 1000 if samples else None
