"""Choose scales, zeros and codes of group-quantized 4-bit weights; round with errors compensated.

A weight is stored as `scale * (code - zero)`, code and zero whole numbers of 0 to 15, one scale and zero a group of
consecutive columns. Symmetric: the zero is always 8. Scales have eight significant bits and fit f16, so that a loader
that holds them in bf16 reads the same weights. Compiled (int4_search.c) where the extension was built, numpy otherwise
(int4_arrays.py), with the same results. Knows nothing of models, files or packings.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quant.codecs import int4_arrays
from quant.extension import load_extension

GROUP_SIZES = (128, 64, 32)
SYMMETRIC_ZERO = 8
MAX_SCALE = 65504.0  # of f16

_NAME = "_int4_search"


@dataclass(frozen=True, slots=True)
class Int4Groups:
    """Quantized rows. `losses` are the groups' squared errors, weighed by importance."""

    scales: NDArray[np.float32]  # (n_rows, n_groups)
    zeros: NDArray[np.uint8]  # (n_rows, n_groups)
    losses: NDArray[np.float32]  # (n_rows, n_groups)
    codes: NDArray[np.uint8]  # (n_rows, n_columns)


def search_groups(
    weights: NDArray[np.float32],
    importance: NDArray[np.float32],
    group_size: int,
    *,
    symmetric: bool = False,
    rough: bool = False,
) -> Int4Groups:
    """Return the groups whose weighted squared error is (nearly) the smallest.

    Args:
        weights: f32 (n_rows, n_columns), finite.
        importance: f32 (n_columns,), how much an error of the column counts; finite, not negative, about 1 on average:
            products of three weights and it must fit f32.
        group_size: one of `GROUP_SIZES`, or any that is not above 128; divides n_columns.
        symmetric: all zeros are 8.
        rough: a fifth of the candidates, for comparing one way of scaling weights with another.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    n_rows, n_columns = weights.shape
    if not 0 < group_size <= GROUP_SIZES[0] or n_columns % group_size or importance.shape != (n_columns,):
        raise ValueError(f"weights {weights.shape}, importance {importance.shape} and groups of {group_size}")
    n_groups = n_columns // group_size
    library = _library()
    if library is None:
        return Int4Groups(*int4_arrays.search(weights, importance, n_groups, symmetric=symmetric, rough=rough))
    weights, importance = np.ascontiguousarray(weights, np.float32), np.ascontiguousarray(importance, np.float32)
    scales, losses = np.empty((n_rows, n_groups), np.float32), np.empty((n_rows, n_groups), np.float32)
    zeros, codes = np.empty((n_rows, n_groups), np.uint8), np.empty((n_rows, n_columns), np.uint8)
    library.int4_search(
        *(array.ctypes.data for array in (weights, importance)),
        *(n_rows, n_groups, group_size, symmetric, rough),
        *(array.ctypes.data for array in (scales, zeros, losses, codes)),
    )
    return Int4Groups(scales, zeros, losses, codes)


def compensate(
    weights: NDArray[np.float32],
    wanted: NDArray[np.float32],
    mix: NDArray[np.float32],
    scales: NDArray[np.float32],
    zeros: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Round one group column by column, each error moving the columns after it; return codes u8 and errors f32.

    Args:
        weights: f32 (n_rows, n_columns), as they are; errors are these less what is stored.
        wanted: f32 (n_rows, n_columns), what should be stored, given the errors of earlier groups.
        mix: f32 (n_columns, n_columns); an error e of column j adds e * mix[j, k] to what is wanted of column k > j.
        scales: f32 (n_rows,), of the group.
        zeros: u8 (n_rows,).
    """
    n_rows, n_columns = weights.shape
    library = _library()
    if library is None:
        return int4_arrays.compensate(weights, wanted, mix, scales, zeros)
    given = [np.ascontiguousarray(array, np.float32) for array in (weights, wanted, mix)]
    scales, zeros = np.ascontiguousarray(scales, np.float32), np.ascontiguousarray(zeros, np.uint8)
    codes, errors = np.empty((n_rows, n_columns), np.uint8), np.empty((n_rows, n_columns), np.float32)
    library.int4_compensate(
        *(array.ctypes.data for array in given),
        *(n_rows, n_columns),
        *(array.ctypes.data for array in (scales, zeros, codes, errors)),
    )
    return codes, errors


def is_compiled() -> bool:
    """Tell whether the compiled search is there."""
    return _library() is not None


@cache
def _library() -> ctypes.CDLL | None:
    """Return the extension built from int4_search.c; None: it was not built."""
    library = load_extension(Path(__file__).parent, _NAME, "int4_search", "int4_compensate")
    if library is not None:
        _declare(library.int4_search, "ppiiiccpppp")
        _declare(library.int4_compensate, "pppiipppp")
    return library


def _declare(function: Callable[..., object], kinds: str) -> None:
    types = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "c": ctypes.c_int32}
    function.argtypes, function.restype = [types[kind] for kind in kinds], None  # type: ignore[attr-defined]
