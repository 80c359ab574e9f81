"""KLD and agreement against values worked out by hand and properties that every divergence has."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.divergence import Divergence, divergence_of, summarize, token_divergence
from quant.predictions import predict


def test_two_token_vocabulary_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): KLD = 3/4 ln(3/2) + 1/4 ln(1/2)
    reference = np.log(np.array([[0.75, 0.25]], dtype=np.float32))
    other = np.zeros((1, 2), dtype=np.float32)
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert token_divergence(reference, other)[0] == pytest.approx(expected, rel=1e-6)


def test_logits_far_from_zero_do_not_overflow() -> None:
    logits = np.array([[1e4, 1e4 - 1.0]], dtype=np.float32)
    assert token_divergence(logits, logits)[0] == 0.0


@given(st.integers(0, 2**32 - 1))
def test_divergence_is_positive_and_zero_only_for_the_same_distribution(seed: int) -> None:
    random = np.random.default_rng(seed)
    reference = random.normal(size=(3, 17)).astype(np.float32)
    other = random.normal(size=(3, 17)).astype(np.float32)
    assert (token_divergence(reference, other) > 0).all()
    np.testing.assert_allclose(token_divergence(reference, reference + 5.0), 0.0, atol=1e-6)


@pytest.mark.parametrize("difference", [1.0, 0.1, 1e-3])
def test_a_large_vocabulary_in_f32_passes_is_as_exact_as_in_f64(difference: float) -> None:
    random = np.random.default_rng(3)
    reference = (random.standard_normal((4, 151936)) * 3).astype(np.float32)
    other = reference + (random.standard_normal((4, 151936)) * difference).astype(np.float32)
    log_p, log_q = (
        rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)) for rows in map(np.float64, (reference, other))
    )
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    np.testing.assert_allclose(divergence_of(predict(reference), predict(other)), expected, atol=5e-8, rtol=1e-5)


def test_summary_spans_all_blocks() -> None:
    reference = np.array([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0]], dtype=np.float32)
    other = np.array([[2.0, 0.0, 0.0], [0.0, 0.0, 2.0]], dtype=np.float32)
    summary = summarize([(reference[:1], other[:1]), (reference[1:], other[1:])])
    assert summary.n_tokens == 2
    assert summary.same_top == 0.5
    assert summary.mean == pytest.approx(token_divergence(reference, other).mean())
    assert summary.maximum == pytest.approx(2 * summary.mean)


def test_statistics_of_known_values() -> None:
    values = np.arange(1001, dtype=np.float32)[::-1].copy()
    found = Divergence.of(values, np.arange(1001) % 4 == 0)
    assert (found.mean, found.median, found.maximum) == (500.0, 500.0, 1000.0)
    assert (found.percentile_99, found.percentile_99_9) == (990.0, pytest.approx(999.0))
    assert found.mean_error == pytest.approx(values.std() / math.sqrt(1000))
    assert found.same_top == 251 / 1001
    assert found.same_top_error == pytest.approx(math.sqrt(found.same_top * (1 - found.same_top) / 1000))


def test_percentiles_lie_between_two_values_in_proportion() -> None:
    # llama-perplexity: place = fraction × (n - 1), the part behind the point between its two neighbours
    found = Divergence.of(np.array([0.0, 1.0, 2.0, 10.0]), np.ones(4, np.bool_))
    assert found.median == 1.5
    assert found.percentile_99 == pytest.approx(2.0 + 0.97 * 8.0)


def test_other_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3\).*\(1, 4\)"):
        token_divergence(np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32))
