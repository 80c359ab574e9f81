"""How fast weights come from where they are, and how fast they are encoded: a second's trial of each.

Short and rough: to say beforehand whether it takes minutes or a day.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from quant.codecs.row_encoder import RowEncoder
from quant.conversion_plan import ConversionPlan
from quant.ggml_types import GgmlType
from qwenctl.services.remote_checkpoint import Shard

MEASURED_BYTES = 32 << 20
MEASURED_S = 1.0
_FIRST_BYTES = 64 << 10  # doubled each time, so that a slow link is not asked for what takes it minutes
_TRIAL_WEIGHTS = 1 << 20


def measure_link(shards: Mapping[str, Shard], n_connections: int) -> float | None:
    """Return bytes a second over so many connections; None: everything is on this disk.

    Raises:
        QwenctlError: the hub does not answer.
    """
    shard = max((one for one in shards.values() if not one.is_local), key=lambda one: one.size_bytes, default=None)
    if shard is None:
        return None
    started = time.monotonic()
    lock = threading.Lock()
    n_done = n_asked = 0

    def fetch(_: int) -> None:
        nonlocal n_done, n_asked
        n_bytes = _FIRST_BYTES
        while time.monotonic() - started < MEASURED_S:
            with lock:
                offset, n_asked = n_asked, n_asked + n_bytes
            if n_asked > min(MEASURED_BYTES, shard.size_bytes):
                return
            shard.read_into(offset, memoryview(bytearray(n_bytes)))
            with lock:
                n_done += n_bytes
            n_bytes *= 2

    pool = ThreadPoolExecutor(n_connections)
    try:
        list(pool.map(fetch, range(n_connections)))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # whoever closes the client ends reads that hang
    return n_done / (time.monotonic() - started) if n_done else None


def measure_encoder(plan: ConversionPlan, encoder: RowEncoder, n_threads: int) -> float:
    """Return the weights that are encoded in a second on so many threads, in the type that most of them get."""
    counts: Counter[GgmlType] = Counter()
    for tensor in plan.layout.placed:
        counts[tensor.type] += tensor.n_bytes
    (most, _), *_ = counts.most_common(1)
    n_columns = next(tensor.shape[-1] for tensor in plan.layout.placed if tensor.type == most)
    shape = max(1, _TRIAL_WEIGHTS // n_columns), n_columns
    rows = np.random.default_rng(0).standard_normal(shape, np.float32)
    started = time.monotonic()
    encoder.encode(most, rows, None)
    return n_threads * rows.size / (time.monotonic() - started)
