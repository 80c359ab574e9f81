"""How a file is cut for its download. Pure arithmetic.

slice   1 MiB: what is recorded as one, with its CRC-32; the last one is shorter
run     up to 16 consecutive slices: what one request asks for
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from qwenctl.services.hub.range_answer import Span

SLICE_BYTES = 1 << 20
RUN_SLICES = 16


def n_slices(n_bytes: int) -> int:
    """Return how many slices a file of `n_bytes` has."""
    return -(-n_bytes // SLICE_BYTES)


def slice_span(number: int, n_bytes: int) -> Span:
    """Return where a slice of a file of `n_bytes` lies."""
    start = number * SLICE_BYTES
    return Span(start, min(SLICE_BYTES, n_bytes - start))


def missing_runs(n_bytes: int, done: Collection[int]) -> Iterator[range]:
    """Yield the slices that are not in `done`, in order, in runs of consecutive ones."""
    first = None
    for number in range(n_slices(n_bytes)):
        if number in done:
            if first is not None:
                yield range(first, number)
            first = None
        elif first is None:
            first = number
        elif number - first == RUN_SLICES:
            yield range(first, number)
            first = number
    if first is not None:
        yield range(first, n_slices(n_bytes))
