"""KLD and agreement against values worked out by hand and properties that every divergence has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.divergence import log_softmax, same_top_token, summarize, token_divergence


def test_two_token_vocabulary_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): KLD = 3/4 ln(3/2) + 1/4 ln(1/2)
    reference = np.log(np.array([[0.75, 0.25]], dtype=np.float32))
    other = np.zeros((1, 2), dtype=np.float32)
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert token_divergence(reference, other)[0] == pytest.approx(expected, rel=1e-6)


def test_logits_far_from_zero_do_not_overflow() -> None:
    logits = np.array([[1e4, 1e4 - 1.0]], dtype=np.float32)
    assert np.isfinite(log_softmax(logits)).all()
    assert token_divergence(logits, logits)[0] == 0.0


@given(st.integers(0, 2**32 - 1))
def test_divergence_is_positive_and_zero_only_for_the_same_distribution(seed: int) -> None:
    random = np.random.default_rng(seed)
    reference = random.normal(size=(3, 17)).astype(np.float32)
    other = random.normal(size=(3, 17)).astype(np.float32)
    assert (token_divergence(reference, other) > 0).all()
    np.testing.assert_allclose(token_divergence(reference, reference + 5.0), 0.0, atol=1e-6)


def test_summary_spans_all_blocks() -> None:
    reference = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=np.float32)
    other = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 2.0]], dtype=np.float32)
    summary = summarize([(reference[:1], other[:1]), (reference[1:], other[1:])])
    assert summary.n_tokens == 2
    assert summary.same_top == 0.5
    assert summary.mean == pytest.approx(token_divergence(reference, other).mean())
    assert summary.maximum == pytest.approx(2 * summary.mean)
    assert same_top_token(reference, other).tolist() == [True, False]


def test_other_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3\).*\(1, 4\)"):
        token_divergence(np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32))
