"""The choice of channel factors: it saves what it says, leaves alone what gains nothing, and a norm can store it."""

from __future__ import annotations

import numpy as np
import pytest

from quant.awq_scales import MAX_FACTOR, SampledRows, choose_factors, norm_rounding
from quant.codecs.int4_search import search_groups
from quant.export_rows import round_stored

GROUP = 64


def sample(seed: int, n_channels: int = 128) -> SampledRows:
    random = np.random.default_rng(seed)
    return SampledRows(random.standard_normal((64, n_channels)).astype(np.float32), np.ones(n_channels, np.float32))


def with_outliers(seed: int) -> SampledRows:
    """A few channels carry a thousand times the energy, as in trained models."""
    plain = sample(seed)
    importance = plain.importance.copy()
    importance[::32] = 1000
    return SampledRows(plain.weights, importance)


def loss(one: SampledRows, factors: np.ndarray) -> float:
    found = search_groups(one.weights * factors, one.importance / (factors * factors), GROUP)
    return float(found.losses.sum())


def test_channels_with_much_energy_are_enlarged() -> None:
    samples = [with_outliers(0), with_outliers(1)]
    choice = choose_factors(samples, GROUP, 128)
    assert choice.factors[::32].min() > 1.3 * np.median(choice.factors)
    assert np.log(choice.factors).mean() == pytest.approx(0, abs=0.05)
    assert choice.remaining_loss < 0.8
    nothing = np.ones(128, np.float32)
    saved = sum(loss(one, choice.factors) for one in samples) / sum(loss(one, nothing) for one in samples)
    assert saved < 0.85


def test_nothing_is_scaled_where_nothing_is_gained() -> None:
    choice = choose_factors([sample(2)], GROUP, 128)
    np.testing.assert_array_equal(choice.factors, 1)
    assert choice.remaining_loss == 1


def test_weights_of_zero_are_left_alone() -> None:
    empty = SampledRows(np.zeros((16, 128), np.float32), np.ones(128, np.float32))
    np.testing.assert_array_equal(choose_factors([empty], GROUP, 128).factors, 1)


def test_factors_stay_within_bounds() -> None:
    one = sample(3)
    importance = np.exp(np.random.default_rng(0).standard_normal(128) * 8).astype(np.float32)
    factors = choose_factors([SampledRows(one.weights, importance)], GROUP, 128).factors
    assert 1 / MAX_FACTOR <= factors.min() <= factors.max() <= MAX_FACTOR


@pytest.mark.parametrize("type_name", ["BF16", "F16"])
def test_a_norm_divided_by_rounded_factors_is_stored_exactly(type_name: str) -> None:
    random = np.random.default_rng(4)
    norm = round_stored((random.standard_normal(256) * 3).astype(np.float32), type_name)
    norm[5] = 0
    factors = norm_rounding(norm, lambda values: round_stored(values, type_name))(
        np.exp(random.standard_normal(256)).astype(np.float32)
    )
    stored = round_stored(norm / factors, type_name)
    np.testing.assert_allclose(stored * factors, norm, rtol=2e-7)
    assert factors[5] == 1
    assert (factors > 0).all()
