"""How fast a model's own file can be read in pieces of an expert's size, by the number of reads under way.

The same reader as later, at random places, past the page cache. Each queue depth gets several short turns, interleaved
with those of the others, so that a disk whose speed drifts does not favour one; its rate is the median. A turn's clock
starts when the queue is full and stops while it still is. Knows nothing of models and of what the rates are used for.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from qwenctl.errors import ExpertReadFailed
from qwenctl.moe.calibration import DiskRate
from qwenctl.moe.direct_file import Pread, default_pread
from qwenctl.moe.expert_map import Slice
from qwenctl.moe.expert_reader import ExpertReader
from qwenctl.moe.read_queue import ReadTicket
from qwenctl.moe.staging import Staging

DEPTHS = (1, 2, 4, 8, 16)
_PLACE_BYTES = 4096
_N_TURNS = 3
_MOST_BUFFER_BYTES = 64 << 20
_GOOD_ENOUGH = 0.95


@dataclass(frozen=True, slots=True)
class DiskSpeed:
    """Rates in ascending order of queue depth.

    `past_cache` is False where the file system allows no O_DIRECT: the rates may then be the memory's.
    """

    slice_bytes: int
    past_cache: bool
    rates: tuple[DiskRate, ...]


def measure_disk(
    path: Path,
    *,
    slice_bytes: int,
    budget_s: float = 2.0,
    depths: tuple[int, ...] = DEPTHS,
    clock: Callable[[], float] = time.perf_counter,
    pread: Pread = default_pread,
) -> DiskSpeed:
    """Read random pieces of a file for about `budget_s`, and a few more where that is too short for a full queue.

    Args:
        path: the model's file.
        slice_bytes: of one read: an expert's matrix.
        budget_s: for all depths together.
        depths: reads under way.
        clock: seconds.
        pread: what reads, as in `ExpertReader`.

    Raises:
        ExpertReadFailed: the file cannot be read, or is smaller than a slice.
    """
    generator = random.Random(0)  # noqa: S311 - places to read, no secret
    turn_s = budget_s / (_N_TURNS * len(depths))
    rates: dict[int, list[float]] = {depth: [] for depth in depths}
    with ExpertReader([path], n_threads=max(depths), pread=pread) as reader:
        n_places = (reader.file_bytes[0] - slice_bytes) // _PLACE_BYTES + 1
        if n_places < 1:
            raise ExpertReadFailed(f"{path}: {reader.file_bytes[0]:,} bytes: no reads of {slice_bytes:,} to measure")
        past_cache = reader.granules[0] > 0
        turn = _Turn(reader, lambda: generator.randrange(n_places) * _PLACE_BYTES, slice_bytes, clock)
        try:
            for _ in range(_N_TURNS):
                for depth in depths:
                    rates[depth].append(turn.bytes_s(depth, turn_s))
        finally:
            reader.close()  # before its destinations go
            turn.close()
    return DiskSpeed(slice_bytes, past_cache, tuple(DiskRate(depth, median(rates[depth])) for depth in sorted(rates)))


def best_n_threads(speed: DiskSpeed) -> int:
    """Return the shortest queue that reads at 95 % of the best rate."""
    enough = _GOOD_ENOUGH * max(rate.bytes_s for rate in speed.rates)
    return min(rate.queue_depth for rate in speed.rates if rate.bytes_s >= enough)


class _Turn:
    """Reads of one file into memory that nobody looks at; buffers are shared where they would be too large."""

    def __init__(
        self, reader: ExpertReader, place: Callable[[], int], slice_bytes: int, clock: Callable[[], float]
    ) -> None:
        self._reader, self._place, self._slice_bytes, self._clock = reader, place, slice_bytes, clock
        stride = -(-slice_bytes // _PLACE_BYTES) * _PLACE_BYTES
        n_buffers = max(1, min(max(DEPTHS), _MOST_BUFFER_BYTES // stride))
        self._memory = Staging(n_buffers * stride)
        first = self._memory.at_least(n_buffers * stride)
        self._targets = deque(first + n * stride for n in range(n_buffers))

    def bytes_s(self, depth: int, turn_s: float) -> float:
        """Return the rate with `depth` reads under way."""
        under_way = deque(self._submit() for _ in range(depth))
        under_way.popleft().wait()  # the first is late by what it takes to fill the queue
        under_way.append(self._submit())
        start, n_done, now = self._clock(), 0, 0.0
        while n_done < depth or now - start < turn_s:
            under_way.popleft().wait()
            now = self._clock()
            n_done += 1
            under_way.append(self._submit())
        for ticket in under_way:
            ticket.wait()
        return n_done * self._slice_bytes / max(now - start, 1e-9)

    def close(self) -> None:
        self._memory.close()

    def _submit(self) -> ReadTicket:
        self._targets.rotate(-1)
        return self._reader.submit("a measured read", [(Slice(0, self._place(), self._slice_bytes), self._targets[0])])
