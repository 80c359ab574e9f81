"""Which tokens are scored, and what comes of it, against the sums of llama-perplexity's source."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.perplexity import (
    Chunks,
    ProbabilityChange,
    cut_chunks,
    first_scored,
    n_scored,
    perplexity,
    perplexity_ratio,
)


def test_half_of_a_chunk_is_scored_but_for_its_last_position() -> None:
    assert (first_scored(512), n_scored(512)) == (256, 255)
    assert (first_scored(511), n_scored(511)) == (255, 255)
    assert (first_scored(4), n_scored(4)) == (2, 1)


def test_chunks_follow_each_other_and_the_rest_is_dropped() -> None:
    chunks = cut_chunks(np.arange(35, dtype=np.int32), 8)
    assert chunks.tokens.tolist() == [list(range(start, start + 8)) for start in (0, 8, 16, 24)]
    assert (chunks.n_chunks, chunks.n_scored) == (4, 12)
    assert chunks.targets(2).tolist() == [21, 22, 23]  # position 4 of 16 … 23 predicts the token at 5
    assert cut_chunks(np.arange(35, dtype=np.int32), 8, most_chunks=2).n_chunks == 2
    assert cut_chunks(np.arange(35, dtype=np.int32), 8, most_chunks=9).n_chunks == 4


def test_the_begin_token_takes_the_place_of_each_chunks_first() -> None:
    chunks = cut_chunks(np.arange(16, dtype=np.int32), 8, begin_token=99)
    assert chunks.inputs()[:, 0].tolist() == [99, 99]
    assert chunks.inputs()[:, 1:].tolist() == chunks.tokens[:, 1:].tolist()
    assert chunks.tokens[:, 0].tolist() == [0, 8]
    assert cut_chunks(np.arange(16, dtype=np.int32), 8).inputs()[:, 0].tolist() == [0, 8]


@pytest.mark.parametrize(("n_tokens", "n_ctx"), [(7, 8), (0, 8), (12, 3)])
def test_too_little_to_score_is_refused(n_tokens: int, n_ctx: int) -> None:
    with pytest.raises(ValueError, match="chunks of shape"):
        cut_chunks(np.zeros(n_tokens, np.int32), n_ctx)


def test_chunks_are_a_table() -> None:
    with pytest.raises(ValueError, match="chunks of shape"):
        Chunks(np.zeros(16, np.int32), None)


def test_a_uniform_model_has_the_vocabulary_as_its_perplexity() -> None:
    found = perplexity(np.full(50, math.log(4096), np.float32))
    assert found.value == pytest.approx(4096, rel=1e-6)
    assert found.error == pytest.approx(0.0, abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(12, 80))
def test_the_ratios_error_is_the_one_of_variances_and_covariance(seed: int, n_tokens: int) -> None:
    random = np.random.default_rng(seed)
    base = random.gamma(2.0, 1.5, n_tokens)
    other = base + random.normal(0.01, 0.1, n_tokens)
    found = perplexity_ratio(other, base)

    def error(values: np.ndarray) -> float:
        return math.sqrt((np.mean(values**2) - np.mean(values) ** 2) / (n_tokens - 1))

    covariance = (np.mean(other * base) - np.mean(other) * np.mean(base)) / (n_tokens - 1)
    expected = math.sqrt(error(other) ** 2 + error(base) ** 2 - 2 * covariance)
    assert found.value == pytest.approx(perplexity(other).value / perplexity(base).value)
    assert found.error == pytest.approx(found.value * expected, rel=1e-5)
    assert found.error < perplexity(other).error


def test_change_of_probability_by_hand() -> None:
    base, other = -np.log([0.5, 0.25, 0.8]), -np.log([0.4, 0.25, 0.9])
    found = ProbabilityChange.of(other, base)
    assert found.mean.value == pytest.approx(0.0, abs=1e-12)
    assert found.rms.value == pytest.approx(math.sqrt(0.02 / 3))
    squares = np.array([0.01, 0.0, 0.01])
    assert found.rms.error == pytest.approx(0.5 / found.rms.value * squares.std() / math.sqrt(2))
