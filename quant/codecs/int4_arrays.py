"""The search for scales and zeros of 4-bit groups, and error-compensated rounding, with numpy alone.

The same as int4_search.c, operation by operation in f32, so that both give the same bits; a twentieth of its speed. The
reasoning is written there. Arrays here have the columns of a group first: (n_columns, n_rows).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

_SHRINK = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
_STEP = np.array([0.04, 0.02, 0.01], np.float32)
_SHIFT = np.float32(12582912.0)
_LEAST = np.float32(2.0**-24)
_NORMAL = np.float32(2.0**-14)
_HIGHEST = np.float32(15.0)
_MIDDLE = np.float32(7.5)
_ONE = np.float32(1.0)
_LANES = 16  # numpy adds a single column in another order than several
_ROWS = 1 << 10  # done together: what one pass touches stays in a cache


@dataclass(slots=True)
class _Best:
    gain: F32
    scale: F32
    zero: F32


def search(
    weights: F32, importance: F32, n_groups: int, *, symmetric: bool, rough: bool
) -> tuple[F32, NDArray[np.uint8], F32, NDArray[np.uint8]]:
    """Return scales, zeros and losses (n_rows, n_groups), and codes like `weights` (n_rows, n_columns)."""
    n_rows, n_columns = weights.shape
    group = n_columns // n_groups
    scales, losses = np.empty((n_rows, n_groups), np.float32), np.empty((n_rows, n_groups), np.float32)
    zeros, codes = np.empty((n_rows, n_groups), np.uint8), np.empty(weights.shape, np.uint8)
    for first in range(0, n_rows, _ROWS):
        rows = slice(first, first + _ROWS)
        for number in range(n_groups):
            columns = slice(number * group, (number + 1) * group)
            x = _transposed(weights[rows, columns])
            n_here = min(_ROWS, n_rows - first)
            scale, zero, loss, code = _search_group(x, importance[columns, None], symmetric, rough)
            scales[rows, number], zeros[rows, number] = scale[:n_here], zero[:n_here]
            losses[rows, number], codes[rows, columns] = loss[:n_here], code[:, :n_here].T
    return scales, zeros, losses, codes


def compensate(
    weights: F32, wanted: F32, mix: F32, scales: F32, zeros: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], F32]:
    """Return codes and errors (n_rows, n_columns) of one group; see `quant.codecs.int4_search.compensate`."""
    w, x = np.ascontiguousarray(weights.T), wanted.T.copy()
    inverse, zero = _ONE / scales, zeros.astype(np.float32)
    codes, errors = np.empty(w.shape, np.uint8), np.empty(w.shape, np.float32)
    for column in range(len(w)):
        u = _steps(x[column], inverse, zero)
        errors[column] = w[column] - u * scales
        codes[column] = (u + zero).astype(np.uint8)
        x[column + 1 :] += errors[column] * mix[column, column + 1 :, None]
    return np.ascontiguousarray(codes.T), np.ascontiguousarray(errors.T)


def _transposed(block: F32) -> F32:
    """Return (n_columns, n_rows), with rows of zeros up to a number that numpy adds row by row."""
    x = np.zeros((block.shape[1], -(-block.shape[0] // _LANES) * _LANES), np.float32)
    x[:, : block.shape[0]] = block.T
    return x


def _search_group(x: F32, importance: F32, symmetric: bool, rough: bool) -> tuple[F32, F32, F32, F32]:
    n_rows = x.shape[1]
    best = _Best(np.full(n_rows, -1, np.float32), np.ones(n_rows, np.float32), np.zeros(n_rows, np.float32))
    _try_grid(x, importance, symmetric, rough, best)
    if not rough:
        _try_steps(x, importance, symmetric, best)
        _judge(x, importance, best.scale, best.zero, best)
    scale = _stored_scale(best.scale)
    u = _steps(x, _ONE / scale, best.zero)
    error = x - u * scale
    loss = np.add.reduce(importance * (error * error), axis=0)
    return scale, best.zero, loss, u + best.zero


def _try_grid(x: F32, importance: F32, symmetric: bool, rough: bool, best: _Best) -> None:
    low, high = np.minimum(x.min(axis=0), np.float32(0)), np.maximum(x.max(axis=0), np.float32(0))
    for shrink in _SHRINK:
        if symmetric:
            scale = np.maximum(np.maximum(high, -low) * (shrink / _MIDDLE), _LEAST)
            _judge(x, importance, scale, np.full(x.shape[1], 8, np.float32), best)
            continue
        for shift in (0,) if rough else (-1, 0, 1):
            scale = np.maximum((high - low) * (shrink / _HIGHEST), _LEAST)
            middle = np.clip(_MIDDLE - (high + low) * np.float32(0.5) / scale, np.float32(-1), np.float32(16))
            zero = np.clip(_whole(middle) + np.float32(shift), np.float32(0), _HIGHEST)
            _judge(x, importance, scale, zero, best)


def _try_steps(x: F32, importance: F32, symmetric: bool, best: _Best) -> None:
    for step in _STEP:
        scale, zero = best.scale, best.zero
        for side in (-1, 1):
            _judge(x, importance, scale * (_ONE + np.float32(side) * step), zero, best)
        for side in () if symmetric else (-1, 1):
            _judge(x, importance, scale, np.clip(zero + np.float32(side), np.float32(0), _HIGHEST), best)


def _judge(x: F32, importance: F32, scale: F32, zero: F32, best: _Best) -> None:
    u = _steps(x, _ONE / scale, zero)
    weighted = importance * u
    a, b = np.add.reduce(weighted * x, axis=0), np.add.reduce(weighted * u, axis=0)
    is_something = b > 0
    divisor = np.where(is_something, b, _ONE)
    gain = np.where(is_something, a * a / divisor, np.float32(0))
    fitted = np.where(is_something, a / divisor, _ONE)
    is_better = gain > best.gain
    best.gain = np.where(is_better, gain, best.gain)
    best.scale = np.where(is_better, np.maximum(fitted, _LEAST), best.scale)
    best.zero = np.where(is_better, zero, best.zero)


def _steps(x: F32, inverse: F32, zero: F32) -> F32:
    """Return code - zero of the nearest stored number."""
    with np.errstate(over="ignore"):  # of weights beyond f16, which are refused later, or of subnormal scales
        u = x * inverse
    u += _SHIFT
    u -= _SHIFT
    return np.clip(u, -zero, _HIGHEST - zero, out=u)


def _whole(x: F32) -> F32:
    rounded: F32 = x + _SHIFT - _SHIFT
    return rounded


def _stored_scale(scale: F32) -> F32:
    """Return the scale with eight significant bits, which bf16 holds, as f16 holds it."""
    bits = scale.view(np.uint32)
    bits = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)) << np.uint32(16)
    rounded = bits.view(np.float32)
    rounded = np.where(rounded < _NORMAL, _whole(rounded * np.float32(2.0**24)) * _LEAST, rounded)
    return np.maximum(rounded, _LEAST)
