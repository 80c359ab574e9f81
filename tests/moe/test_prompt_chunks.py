"""Chunks of a prompt's pairs: every pair once, no expert twice in a chunk, few shapes, little computed twice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.moe.prompt_chunks import chunks_of
from qwenctl.moe.prompt_space import CHUNK_EXPERTS, CHUNK_ROWS, MOST_PASSING, PromptSpace, bucket_of

Slots = list[tuple[int, npt.NDArray[np.int32]]]


def slots_of(counts: list[int]) -> Slots:
    """Slots with as many pairs as `counts` says, numbered through."""
    ends = np.cumsum(counts)
    return [
        (slot, np.arange(end - n, end, dtype=np.int32)) for slot, (n, end) in enumerate(zip(counts, ends, strict=True))
    ]


@given(st.lists(st.integers(1, 700), min_size=1, max_size=60))
def test_every_pair_once_with_its_slot(counts: list[int]) -> None:
    slots = slots_of(counts)
    found: dict[int, list[int]] = {slot: [] for slot, _ in slots}
    for chunk in chunks_of(slots):
        assert len(chunk.slots) == len(set(chunk.slots)) == len(chunk.pairs)
        assert len(chunk.slots) in CHUNK_EXPERTS
        assert all(1 <= len(pairs) <= CHUNK_ROWS[-1] for pairs in chunk.pairs)
        for slot, pairs in zip(chunk.slots, chunk.pairs, strict=True):
            found[slot] += pairs.tolist()
    assert found == {slot: pairs.tolist() for slot, pairs in slots}


def test_nothing_to_cut() -> None:
    assert list(chunks_of([])) == []


def test_a_usual_prompt_is_computed_little_more_than_once() -> None:
    """2,048 tokens, 8 of 128 experts, half of these on the device: rows that fill a chunk are below a third."""
    counts = np.random.default_rng(0).gamma(2.0, 64.0, size=64).astype(int) + 1
    n_computed = sum(len(one.slots) * bucket_of(max(len(p) for p in one.pairs)) for one in chunks_of(slots_of(counts)))
    assert n_computed < 1.34 * counts.sum()


@pytest.mark.parametrize(("n_pairs", "expected"), [(1, 8), (8, 8), (9, 16), (97, 128), (128, 128)])
def test_buckets(n_pairs: int, expected: int) -> None:
    assert bucket_of(n_pairs) == expected


def test_parts_of_the_space_follow_each_other() -> None:
    space = PromptSpace(n_embd=2048, n_ff=768, n_used=8, n_tokens=2048, expert_bytes=3_059_712)
    assert space.results_at >= 2048 * space.row_bytes
    assert space.passing_at - space.results_at >= 2048 * 8 * space.row_bytes
    assert space.chunk_at - space.passing_at >= MOST_PASSING * space.expert_bytes
    assert space.n_bytes - space.chunk_at >= CHUNK_EXPERTS[0] * CHUNK_ROWS[-1] * 2 * space.row_bytes
    assert space.n_bytes < 300 << 20


def test_a_space_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="n_tokens=0"):
        PromptSpace(2048, 768, 8, 0, 1 << 20)
