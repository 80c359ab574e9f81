"""Normalised logits against plain f64, values that are not finite, and what storing them in two bytes costs."""

from __future__ import annotations

import numpy as np
import pytest

from quant.divergence import divergence_of
from quant.predictions import Predictions, predict
from quant.stored_predictions import StoredPredictions


def naive_log_softmax(logits: np.ndarray) -> np.ndarray:
    exact = logits.astype(np.longdouble)
    return exact - np.log(np.exp(exact).sum(axis=-1, keepdims=True))


def some_logits(seed: int = 0, spread: float = 3.0, shape: tuple[int, int] = (7, 5000)) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


def test_surprise_is_minus_log_p() -> None:
    logits, targets = some_logits(), np.array([0, 1, 17, 4999, 400, 3, 2])
    expected = -naive_log_softmax(logits)[np.arange(7), targets]
    np.testing.assert_allclose(predict(logits).surprise(targets), expected.astype(float), atol=1e-6)


def test_logits_far_from_zero_do_not_overflow() -> None:
    found = predict(np.array([[1e4, 1e4 - 1.0], [-1e4, -1e4 - 1.0]], np.float32))
    np.testing.assert_allclose(found.sums, 1 + np.exp(-1), rtol=1e-6)
    assert found.top.tolist() == [0, 0]


def test_what_is_not_finite_is_found() -> None:
    logits = some_logits()
    assert predict(logits).first_not_finite is None
    logits[5, 3] = np.nan
    assert predict(logits).first_not_finite == 5
    logits[2, 9] = np.inf
    assert predict(logits).first_not_finite == 2


def test_the_input_is_not_changed() -> None:
    logits = some_logits()
    before = logits.copy()
    divergence_of(predict(logits), predict(some_logits(1)))
    np.testing.assert_array_equal(logits, before)


def test_rows_and_sums_must_match() -> None:
    logits = some_logits()
    whole = predict(logits)
    with pytest.raises(ValueError, match="3 rows"):
        Predictions(logits[:3], whole.peaks, whole.sums, whole.top)


def test_stored_predictions_come_back_within_half_a_step() -> None:
    logits = some_logits(spread=4.0)
    stored, room = StoredPredictions(9, 5000), np.empty((7, 5000), np.float32)
    stored.store(2, predict(logits))
    found = stored.expand(2, room)
    expected = np.maximum(logits - logits.max(axis=1, keepdims=True), -24.0) + 24.0
    np.testing.assert_allclose(found.logits, expected, atol=24 / 65535 / 2 + 1e-5)
    assert (logits - logits.max(axis=1, keepdims=True)).min() < -24  # the floor was met


def test_storing_hardly_changes_a_divergence() -> None:
    reference, other = some_logits(spread=2.0), some_logits(spread=2.0)
    other += some_logits(1, spread=0.1)
    stored, room = StoredPredictions(7, 5000), np.empty((7, 5000), np.float32)
    stored.store(0, predict(reference))
    exact = divergence_of(predict(reference), predict(other))
    found = divergence_of(stored.expand(0, room), predict(other))
    assert 1e-3 < exact.mean() < 1e-1
    assert found.mean() == pytest.approx(exact.mean(), abs=1e-6)
    assert np.abs(divergence_of(stored.expand(0, room), predict(reference))).max() < 1e-7


def test_the_most_likely_token_survives_a_tie() -> None:
    logits = np.array([[0.0, 5.0, 5.00001, 1.0]], np.float32)
    stored = StoredPredictions(1, 4)
    stored.store(0, predict(logits))
    found = stored.expand(0, np.empty((1, 4), np.float32))
    assert found.logits[0, 1] == found.logits[0, 2]
    assert found.top.tolist() == [2]
