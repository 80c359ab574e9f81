"""Error-compensated rounding: the factor is that of H, and what it saves is measured on the products."""

from __future__ import annotations

import numpy as np
import pytest

from quant.codecs.int4_search import Int4Groups, search_groups
from quant.gptq_rounding import COLUMNS_A_TOKEN, DAMPING, factorize, round_compensated, rounding_order
from tests.quant.test_int4_search import stored

N = 128
GROUP = 32


def inputs(n_tokens: int = 4096, seed: int = 0) -> np.ndarray:
    """Inputs whose columns go together, f32 (n_tokens, N)."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((n_tokens, 16)) @ random.standard_normal((16, N))
    own = random.standard_normal((n_tokens, N)) * np.exp(random.standard_normal(N) * 0.5)
    return (0.5 * mixed + own).astype(np.float32)


def moments(x: np.ndarray) -> np.ndarray:
    return (x.T @ x).astype(np.float32)


def weights(seed: int = 1, n_rows: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_rows, N)).astype(np.float32)


def product_error(x: np.ndarray, w: np.ndarray, found: Int4Groups, factors: np.ndarray | float = 1.0) -> float:
    return float((((w - stored(found) / factors) @ x.T) ** 2).sum())


def test_the_factor_multiplies_out_to_h() -> None:
    x = inputs()
    h = moments(x).astype(np.float64)
    level, trust = np.trace(h) / N, 4096 / (4096 + N / COLUMNS_A_TOKEN)
    expected = h * trust / level
    np.fill_diagonal(expected, np.diagonal(h) / level + DAMPING)
    factor = factorize(moments(x), 4096, GROUP)
    assert factor is not None
    assert not np.tril(factor.mix, -1).any()
    unit = np.triu(factor.mix.astype(np.float64), 1) + np.eye(N)
    product = (unit * factor.importance) @ unit.T
    np.testing.assert_allclose(product, expected[np.ix_(factor.order, factor.order)], atol=1e-4)


def test_groups_stay_together_in_the_order() -> None:
    importance = np.random.default_rng(0).random(N).astype(np.float32)
    order = rounding_order(importance, GROUP)
    assert sorted(order) == list(range(N))
    groups = order.reshape(-1, GROUP)
    assert all(len(set(group // GROUP)) == 1 for group in groups)
    means = importance[groups].mean(axis=1)
    assert (np.diff(means) <= 0).all()
    assert (np.diff(importance[groups], axis=1) <= 0).all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_products_are_closer_than_without_compensation(symmetric: bool) -> None:
    x, w = inputs(), weights()
    factor = factorize(moments(x), len(x), GROUP)
    assert factor is not None
    importance = np.diagonal(moments(x)) / np.diagonal(moments(x)).mean()
    plain = product_error(x, w, search_groups(w, importance, GROUP, symmetric=symmetric))
    compensated = round_compensated(w, factor, GROUP, symmetric=symmetric)
    assert product_error(x, w, compensated) < 0.6 * plain
    assert product_error(inputs(seed=0)[:512], w, compensated) < 0.7 * plain / 8
    assert not symmetric or set(compensated.zeros.flat) == {8}


def test_the_losses_add_up_to_the_error_of_the_products() -> None:
    """sum over columns of D * (wanted - stored)^2 is e H e^T: the identity the method rests on."""
    x, w = inputs(), weights()
    factor = factorize(moments(x), len(x), GROUP)
    assert factor is not None
    errors = (w - stored(round_compensated(w, factor, GROUP)))[:, factor.order].astype(np.float64)
    unit = np.triu(factor.mix.astype(np.float64), 1) + np.eye(N)
    by_column = ((errors @ unit) ** 2 * factor.importance).sum()
    h = (unit * factor.importance) @ unit.T
    np.testing.assert_allclose(by_column, np.einsum("ri,ij,rj->", errors, h, errors), rtol=1e-6)


def test_factors_change_what_is_stored_and_not_what_it_is_for() -> None:
    x, w = inputs(), weights()
    factors = np.exp(np.random.default_rng(2).standard_normal(N) * 0.1).astype(np.float32)
    factor = factorize(moments(x), len(x), GROUP)
    assert factor is not None
    scaled = round_compensated(w, factor, GROUP, factors=factors)
    plain = round_compensated(w, factor, GROUP)
    assert product_error(x, w, scaled, factors) < 1.2 * product_error(x, w, plain)
    twice = round_compensated(w, factor, GROUP, factors=np.full(N, 2, np.float32))
    np.testing.assert_array_equal(twice.codes, plain.codes)
    np.testing.assert_array_equal(twice.scales, 2 * plain.scales)


def test_few_tokens_are_trusted_little() -> None:
    x, w = inputs(), weights()
    few = factorize(moments(x[:24]), 24, GROUP)
    assert few is not None
    importance = np.diagonal(moments(x)) / np.diagonal(moments(x)).mean()
    plain = product_error(x, w, search_groups(w, importance, GROUP))
    assert product_error(x, w, round_compensated(w, few, GROUP)) < 1.25 * plain


def test_nothing_is_learnt_from_nothing() -> None:
    assert factorize(np.zeros((N, N), np.float32), 10, GROUP) is None
    assert factorize(moments(inputs()), 0, GROUP) is None


def test_columns_that_were_always_zero() -> None:
    x = inputs()
    x[:, 3] = 0
    factor = factorize(moments(x), len(x), GROUP)
    assert factor is not None
    found = round_compensated(weights(), factor, GROUP)
    assert np.isfinite(found.scales).all()
    assert np.abs(weights() - stored(found)).max() < 2
