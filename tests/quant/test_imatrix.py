"""Importance matrices as values: means, sums of two, digests, and what cannot be one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quant.errors import ImatrixMismatch
from quant.imatrix import Imatrix, ImatrixEntry
from quant.imatrix_coverage import coverage_of


def entry(sums: Any, counts: Any) -> ImatrixEntry:
    return ImatrixEntry(np.array(sums, np.float32), np.array(counts, np.float32))


def test_means_are_sums_by_counts_and_ones_where_nothing_was_seen() -> None:
    experts = entry([[2, 4], [0, 0], [9, 3]], [2, 0, 3])
    assert (experts.n_matrices, experts.n_columns) == (3, 2)
    np.testing.assert_array_equal(experts.mean_squares(0), np.array([1, 2], np.float32))
    np.testing.assert_array_equal(experts.mean_squares(1), np.array([1, 1], np.float32))
    np.testing.assert_array_equal(experts.mean_squares(2), np.array([3, 1], np.float32))
    assert experts.mean_squares(0).dtype == np.float32
    assert experts.never_routed() == (1,)


@pytest.mark.parametrize(
    ("sums", "counts", "message"),
    [
        ([1.0, 2.0], [1.0], "do not go together"),
        ([[1.0, 2.0]], [1.0, 1.0], "do not go together"),
        (np.zeros((0, 2)), np.zeros(0), "do not go together"),
        ([[1.0, np.nan]], [1.0], "a sum is not finite"),
        ([[1.0, np.inf]], [1.0], "a sum is not finite"),
        ([[1.0, -1e-9]], [1.0], "a sum is negative"),
        ([[1.0, 1.0]], [np.nan], "a count is not finite"),
        ([[1.0, 1.0]], [-1.0], "a count is negative"),
    ],
)
def test_what_cannot_be_statistics_is_refused(sums: Any, counts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        entry(sums, counts)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="sums must be float32"):
        ImatrixEntry(np.zeros((1, 2)), np.zeros(1, np.float32))


def test_merging_adds() -> None:
    ours = Imatrix({"a": entry([[1, 2]], [3]), "b": entry([[5]], [1])}, ("x.txt",), 4, 512)
    theirs = Imatrix({"a": entry([[10, 20]], [30]), "c": entry([[7]], [1])}, ("y.txt", "z.txt"), 6, 256)
    both = ours.merged(theirs)
    assert sorted(both.entries) == ["a", "b", "c"]
    np.testing.assert_array_equal(both.entries["a"].sums, [[11, 22]])
    np.testing.assert_array_equal(both.entries["a"].counts, [33])
    assert both.datasets == ("x.txt", "y.txt", "z.txt")
    assert (both.n_chunks, both.chunk_tokens) == (4 + 3, 512)  # six chunks of half the length
    np.testing.assert_array_equal(ours.entries["a"].sums, [[1, 2]])


def test_statistics_of_two_models_are_not_merged() -> None:
    with pytest.raises(ImatrixMismatch, match=r"a has statistics of other shapes: \(1, 2\) and \(1, 3\)"):
        Imatrix({"a": entry([[1, 2]], [3])}).merged(Imatrix({"a": entry([[1, 2, 3]], [3])}))


def test_the_digest_changes_with_everything_that_is_inside() -> None:
    plain = Imatrix({"a": entry([[1, 2]], [3]), "b": entry([[5]], [1])}, ("x",), 1, 512)
    same = Imatrix({"b": entry([[5]], [1]), "a": entry([[1, 2]], [3])}, ("x",), 1, 512)
    others = [
        Imatrix({"a": entry([[1, 2]], [3])}, ("x",), 1, 512),
        Imatrix({"a": entry([[1, 2]], [4]), "b": entry([[5]], [1])}, ("x",), 1, 512),
        Imatrix({"a": entry([[2, 1]], [3]), "b": entry([[5]], [1])}, ("x",), 1, 512),
        Imatrix(plain.entries, ("y",), 1, 512),
        Imatrix(plain.entries, ("x",), 2, 512),
    ]
    assert plain.digest == same.digest
    assert len(plain.digest) == 16
    assert len({one.digest for one in [plain, *others]}) == 6


def test_coverage_is_that_of_the_least_covered_tensor() -> None:
    imatrix = Imatrix(
        {
            "blk.1.ffn_up_exps.weight": entry(np.ones((4, 2)), [5, 0, 9, 2]),
            "blk.1.ffn_down_exps.weight": entry(np.ones((4, 3)), [5, 0, 8, 2]),
            "blk.0.ffn_up_exps.weight": entry(np.ones((2, 2)), [1, 2]),
            "blk.0.attn_q.weight": entry(np.ones((1, 2)), [0]),
            "blk.2.ffn_up_exps.weight": entry(np.ones((1, 8)), [4]),  # of an older file, in one piece
        }
    )
    first, second = coverage_of(imatrix)
    assert (first.layer, second.layer) == (0, 1)
    assert second.tokens == (5, 0, 8, 2)
    assert (second.least, second.median, second.most) == (0, 3.5, 8)
    assert second.below(1) == (1,)
    assert second.below(5) == (1, 3)
    assert second.below(0) == ()
