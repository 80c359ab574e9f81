"""The search for 4-bit groups: compiled and with numpy the same bits, near the best there is, safe at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from quant.codecs import int4_arrays
from quant.codecs.int4_search import Int4Groups, compensate, is_compiled, search_groups

needs_compiled = pytest.mark.skipif(not is_compiled(), reason="the extension was not built")


def numbers(seed: int, n_rows: int = 37, n_columns: int = 256, *, smallest: int = -3) -> tuple[np.ndarray, np.ndarray]:
    """Heavy-tailed weights, rows of very different sizes, and importances that differ a lot."""
    random = np.random.default_rng(seed)
    weights = random.standard_t(3, (n_rows, n_columns)) * 10.0 ** random.integers(smallest, 3, (n_rows, 1))
    return weights.astype(np.float32), np.exp(random.standard_normal(n_columns) * 1.5).astype(np.float32)


def stored(found: Int4Groups) -> np.ndarray:
    """What the groups are worth, f32."""
    n_rows, n_groups = found.scales.shape
    steps = found.codes.reshape(n_rows, n_groups, -1).astype(np.float32) - found.zeros[:, :, None]
    return (steps * found.scales[:, :, None]).reshape(found.codes.shape)


def weighted_error(weights: np.ndarray, importance: np.ndarray, found: Int4Groups) -> np.ndarray:
    squares = importance * (weights.astype(np.float64) - stored(found)) ** 2
    return squares.reshape(*found.scales.shape, -1).sum(axis=2)


@needs_compiled
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("rough", [False, True])
@pytest.mark.parametrize("group_size", [128, 64, 32])
def test_compiled_and_numpy_give_the_same_bits(symmetric: bool, rough: bool, group_size: int) -> None:
    for seed, n_rows in enumerate((1, 15, 16, 37)):
        weights, importance = numbers(seed, n_rows, smallest=-9)
        weights[0, :group_size] = 0
        importance[-group_size:] = 0
        compiled = search_groups(weights, importance, group_size, symmetric=symmetric, rough=rough)
        n_groups = 256 // group_size
        plain = Int4Groups(*int4_arrays.search(weights, importance, n_groups, symmetric=symmetric, rough=rough))
        for name in Int4Groups.__slots__:
            np.testing.assert_array_equal(getattr(compiled, name), getattr(plain, name), err_msg=name)


@needs_compiled
@pytest.mark.parametrize("n_rows", [1, 16, 37])
def test_compiled_and_numpy_compensate_alike(n_rows: int) -> None:
    weights, importance = numbers(5, n_rows, 128)
    mix = np.random.default_rng(0).standard_normal((128, 128)).astype(np.float32) * np.float32(0.1)
    found = search_groups(weights, importance, 128)
    given = (weights, weights * np.float32(1.01), mix, found.scales[:, 0], found.zeros[:, 0])
    for ours, theirs in zip(compensate(*given), int4_arrays.compensate(*given), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("symmetric", [False, True])
def test_losses_are_the_weighted_squared_errors(symmetric: bool) -> None:
    weights, importance = numbers(1, smallest=-5)
    found = search_groups(weights, importance, 128, symmetric=symmetric)
    np.testing.assert_allclose(found.losses, weighted_error(weights, importance, found), rtol=1e-3)
    assert found.codes.max() <= 15
    assert not symmetric or set(found.zeros.flat) == {8}


def test_scales_are_the_same_in_bf16_and_f16() -> None:
    weights, importance = numbers(2, smallest=-9)
    scales = search_groups(weights, importance, 64).scales
    assert (scales > 0).all()
    np.testing.assert_array_equal(scales.view(np.uint32) & 0xFFFF, 0)
    np.testing.assert_array_equal(scales, scales.astype(np.float16).astype(np.float32))


def test_is_within_a_percent_of_trying_everything() -> None:
    weights, importance = numbers(3, n_rows=8, n_columns=128)
    weights /= np.abs(weights).max(axis=1, keepdims=True)
    low, high = weights.min(axis=1), weights.max(axis=1)
    best = np.full(8, np.inf)
    for shrink in np.arange(0.3, 1.1, 0.005):
        scale = ((high - low) * shrink / 15).astype(np.float32)[:, None]
        for zero in range(16):
            steps = np.clip(np.rint(weights / scale), -zero, 15 - zero)
            a, b = (importance * steps * weights).sum(axis=1), (importance * steps * steps).sum(axis=1)
            fitted = (a / np.where(b > 0, b, 1))[:, None]
            best = np.minimum(best, (importance * (weights - fitted * steps) ** 2).sum(axis=1))
    losses = search_groups(weights, importance, 128).losses[:, 0]
    assert losses.sum() < 1.02 * best.sum()


def test_is_better_than_rounding_to_nearest() -> None:
    weights, importance = numbers(4)
    groups = weights.reshape(37, 2, 128)
    low, high = np.minimum(groups.min(axis=2), 0), np.maximum(groups.max(axis=2), 0)
    scale = ((high - low) / 15)[:, :, None]
    zero = np.clip(np.rint(-low[:, :, None] / scale), 0, 15)
    nearest = (np.clip(np.rint(groups / scale) + zero, 0, 15) - zero) * scale
    error = (importance.reshape(2, 128) * (groups - nearest) ** 2).sum(axis=2)
    ratio = search_groups(weights, importance, 128).losses / error
    assert ratio.max() <= 1.0001
    assert ratio.mean() < 0.75


def test_a_rough_search_is_nearly_as_good() -> None:
    weights, importance = numbers(6)
    rough = search_groups(weights, importance, 128, rough=True).losses
    full = search_groups(weights, importance, 128).losses
    assert (full <= rough * 1.001).all()
    assert (rough / full).mean() < 1.15


@pytest.mark.parametrize("symmetric", [False, True])
def test_zeros_are_stored_exactly(symmetric: bool) -> None:
    found = search_groups(np.zeros((3, 128), np.float32), np.ones(128, np.float32), 128, symmetric=symmetric)
    np.testing.assert_array_equal(stored(found), 0)
    assert np.isfinite(found.scales).all()


def test_weights_of_one_sign_and_of_extreme_size() -> None:
    weights = np.abs(numbers(7, 4, 128)[0])
    weights[1] *= -1
    weights[2] = 1e-12  # below the smallest scale of f16
    weights[3] = 1e9  # above the largest: refused where scales are packed
    found = search_groups(weights, np.ones(128, np.float32), 128)
    assert np.isfinite(found.scales).all()
    np.testing.assert_array_equal(stored(found)[2], 0)
    assert found.scales[3, 0] > 65504


def test_columns_that_do_not_count_do_not_widen_the_range() -> None:
    weights = np.random.default_rng(8).standard_normal((4, 128)).astype(np.float32)
    weights[:, 7] = 100
    importance = np.ones(128, np.float32)
    importance[7] = 0
    error = np.abs(weights - stored(search_groups(weights, importance, 128)))
    assert np.delete(error, 7, axis=1).max() < 1.5  # half the range that is left, at most; an eighth of what it was


def test_shapes_that_do_not_fit() -> None:
    weights, importance = numbers(9)
    for bad in ((weights, importance[:-1], 128), (weights, importance, 100), (weights, importance, 256)):
        with pytest.raises(ValueError, match="groups of"):
            search_groups(*bad)


def test_compensation_moves_later_columns() -> None:
    weights = np.array([[0.4, 0.0, 0.4]], np.float32)
    mix = np.zeros((3, 3), np.float32)
    mix[0, 1] = 2.0  # the error of column 0, 0.4 - 0, adds 0.8 to what is wanted of column 1
    codes, errors = compensate(weights, weights, mix, np.ones(1, np.float32), np.array([4], np.uint8))
    assert codes.tolist() == [[4, 5, 4]]
    np.testing.assert_allclose(errors, [[0.4, -1.0, 0.4]], rtol=1e-6)
