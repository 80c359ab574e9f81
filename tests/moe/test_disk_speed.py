"""Measuring the disk: the arithmetic under a scripted clock, the queue that it really keeps, and files it refuses."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from qwenctl.errors import ExpertReadFailed
from qwenctl.moe.calibration import DiskRate
from qwenctl.moe.disk_speed import DEPTHS, DiskSpeed, best_n_threads, measure_disk

_SLICE_BYTES = 5000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(random.Random(1).randbytes(300_007))
    return path


def _one_second_a_read() -> Any:
    return itertools.count().__next__


def test_rates_are_bytes_over_seconds(path: Path) -> None:
    speed = measure_disk(path, slice_bytes=_SLICE_BYTES, budget_s=15 * 20, clock=_one_second_a_read())
    assert speed.slice_bytes == _SLICE_BYTES
    assert speed.rates == tuple(DiskRate(depth, _SLICE_BYTES) for depth in DEPTHS)
    assert json.loads(json.dumps(asdict(speed)))["rates"][0] == {"queue_depth": 1, "bytes_s": _SLICE_BYTES}


def test_the_queue_is_as_deep_as_it_says(path: Path) -> None:
    depths = (2, 4)
    n_calls = {depth: 2 * depth + 1 for depth in depths}  # fill the queue, one more, then a queue's worth
    lock, numbers = threading.Lock(), itertools.count()
    together = {depth: threading.Barrier(depth, timeout=30) for depth in depths}
    in_flight, most = 0, dict.fromkeys(depths, 0)

    def pread(fd: int, buffers: Sequence[Any], offset: int) -> int:
        nonlocal in_flight
        with lock:
            number = next(numbers) % sum(n_calls.values())
            depth, position = (2, number) if number < n_calls[2] else (4, number - n_calls[2])
            in_flight += 1
            most[depth] = max(most[depth], in_flight)
        if position < depth:
            together[depth].wait()
        got = os.preadv(fd, buffers, offset)
        with lock:
            in_flight -= 1
        return got

    measure_disk(path, slice_bytes=_SLICE_BYTES, budget_s=1.0, depths=depths, clock=_one_second_a_read(), pread=pread)
    assert most == {2: 2, 4: 4}
    assert next(numbers) == 3 * sum(n_calls.values())


def test_reads_are_inside_the_file_and_at_many_places(path: Path) -> None:
    places = set()

    def pread(fd: int, buffers: Sequence[Any], offset: int) -> int:
        places.add(offset)
        return os.preadv(fd, buffers, offset)

    measure_disk(path, slice_bytes=_SLICE_BYTES, budget_s=15 * 20, clock=_one_second_a_read(), pread=pread)
    assert len(places) > 40
    assert all(offset % 4096 == 0 and 0 <= offset <= 300_007 - _SLICE_BYTES for offset in places)


def test_a_slice_as_large_as_the_file(path: Path) -> None:
    speed = measure_disk(path, slice_bytes=300_007, budget_s=0.0, depths=(1, 16))
    assert [rate.queue_depth for rate in speed.rates] == [1, 16]
    assert all(rate.bytes_s > 0 for rate in speed.rates)


def test_files_that_cannot_be_measured(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ExpertReadFailed, match="no reads of 300,008"):
        measure_disk(path, slice_bytes=300_008)
    with pytest.raises(ExpertReadFailed, match="No such file"):
        measure_disk(tmp_path / "none", slice_bytes=4096)


def test_a_disk_that_fails_while_it_is_measured(path: Path) -> None:
    numbers = itertools.count()

    def pread(fd: int, buffers: Sequence[Any], offset: int) -> int:
        if next(numbers) == 11:
            raise OSError(errno.EIO, "Input/output error")
        return os.preadv(fd, buffers, offset)

    n_threads = threading.active_count()
    with pytest.raises(ExpertReadFailed, match="Input/output error"):
        measure_disk(path, slice_bytes=4096, budget_s=0.0, pread=pread)
    assert threading.active_count() == n_threads


@pytest.mark.parametrize(
    ("rates", "n_threads"),
    [
        ({1: 1.0, 2: 2.0, 4: 3.0, 8: 3.1, 16: 3.15}, 4),
        ({1: 3.0, 2: 2.0, 4: 2.0}, 1),
        ({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}, 8),
    ],
)
def test_the_shortest_queue_that_is_about_as_fast(rates: dict[int, float], n_threads: int) -> None:
    speed = DiskSpeed(4096, True, tuple(DiskRate(depth, rate * 1e9) for depth, rate in rates.items()))
    assert best_n_threads(speed) == n_threads
