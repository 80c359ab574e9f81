"""Slices and runs cover a file exactly, whatever is there already."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwenctl.services.hub.slices import RUN_SLICES, SLICE_BYTES, missing_runs, n_slices, slice_span

SIZES = st.integers(0, 100 * SLICE_BYTES)


@given(SIZES, st.sets(st.integers(0, 99)))
def test_runs_are_what_is_missing(n_bytes: int, done: set[int]) -> None:
    runs = list(missing_runs(n_bytes, done))
    assert all(1 <= len(run) <= RUN_SLICES for run in runs)
    assert [number for run in runs for number in run] == [n for n in range(n_slices(n_bytes)) if n not in done]


@given(SIZES)
def test_slices_lie_side_by_side(n_bytes: int) -> None:
    at = 0
    for number in range(n_slices(n_bytes)):
        span = slice_span(number, n_bytes)
        assert span.offset_bytes == at
        assert 0 < span.n_bytes <= SLICE_BYTES
        at += span.n_bytes
    assert at == n_bytes
