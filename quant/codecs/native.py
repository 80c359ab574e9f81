"""Encode and decode rows with ggml's own code, so that the bytes are those llama.cpp would write.

ggml aborts the whole process on a bad argument and writes garbage scales for values that are not finite. So everything
is checked here, before the native call. Both calls release the interpreter lock: a pool of threads uses all cores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quant.ggml_types import GGML_TYPES, GgmlType
from quant.libggml import LibGgml

_F16_MAX = 65504.0
_BF16_MAX = 3.3895313892515355e38
_LARGEST_WEIGHT = {"F32": float(np.finfo(np.float32).max), "BF16": _BF16_MAX}
"""Largest magnitude that encodes to something finite; all other types have f16 scales or values, or one of 8 bits."""

_MINIMUM_IN_F16 = ("Q4_1", "Q5_1")

_CACHED_WEIGHTS = 1 << 18  # checked, then encoded while they are still in the processor's cache

ENCODABLE_TYPES: tuple[GgmlType, ...] = tuple(
    GGML_TYPES[name]
    for name in (
        "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K",
        "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_XS", "IQ4_NL", "MXFP4",
    )
)  # fmt: skip
"""Types that `encode_rows` writes. None of them demands an importance matrix."""


class BadRowsError(ValueError):
    """Weights that the type cannot store: NaN, infinity, or too large for its scales."""


def encode_rows(
    lib: LibGgml,
    ggml_type: GgmlType,
    rows: NDArray[np.float32],
    imatrix: NDArray[np.float32] | None = None,
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Return `rows` in the layout of `ggml_type`: uint8 (n_rows, row_bytes).

    Args:
        lib: the loaded library.
        ggml_type: one of ENCODABLE_TYPES.
        rows: f32 (n_rows, n_columns), C-contiguous.
        imatrix: f32 (n_columns,), mean squares of the activations of each column, for types that weigh their errors.
        out: contiguous uint8 (n,) with room for all rows, whose front is filled and returned as a view; None: a new
            array, whose memory the kernel has to clear first: a tenth of the time of the quick types.

    Raises:
        BadRowsError: a weight that is NaN, infinite or too large.
        ValueError: any other argument that ggml would abort on.
    """
    encoded = destination_of(ggml_type, rows, out)
    n_columns = rows.shape[1]
    if imatrix is not None:
        check_imatrix(imatrix, n_columns)
    imatrix_address = None if imatrix is None else imatrix.ctypes.data
    source, destination = rows.ctypes.data, encoded.ctypes.data
    n_together = max(1, _CACHED_WEIGHTS // n_columns)
    for first in range(0, len(rows), n_together):
        block = rows[first : first + n_together]
        check_weights(ggml_type, block, first)
        at, to = source + first * rows.strides[0], destination + first * encoded.strides[0]
        lib.quantize_chunk(ggml_type.type_id, at, to, len(block), n_columns, imatrix_address)
        if imatrix is not None and ggml_type.name in _MINIMUM_IN_F16:
            _encode_plainly_where_infinite(lib, ggml_type, block, encoded[first : first + n_together])
    return encoded


def _encode_plainly_where_infinite(
    lib: LibGgml, ggml_type: GgmlType, rows: NDArray[np.float32], encoded: NDArray[np.uint8]
) -> None:
    """Encode rows again, without importance, of which something became infinite: with it ggml looks for a minimum that
    lowers the error, and for weights near the end of F16 it may find one beyond.
    """
    if np.abs(rows).max() <= _F16_MAX / 2:
        return
    n_columns = rows.shape[1]
    decoded = decode_rows(lib, ggml_type, encoded, n_columns)
    for row in np.flatnonzero(~np.isfinite(decoded).all(axis=1)):
        lib.quantize_chunk(ggml_type.type_id, rows[row].ctypes.data, encoded[row].ctypes.data, 1, n_columns, None)


def decode_rows(lib: LibGgml, ggml_type: GgmlType, encoded: NDArray[np.uint8], n_columns: int) -> NDArray[np.float32]:
    """Return the weights of `encoded` as f32 (n_rows, n_columns).

    Args:
        lib: the loaded library.
        ggml_type: F32, or any type that ggml can decode.
        encoded: uint8 (n_rows, row_bytes), C-contiguous.
        n_columns: weights a row.

    Raises:
        ValueError: an argument that ggml would abort on or read beyond.
    """
    _check_array(encoded, "encoded rows", 2, np.uint8)
    row_bytes = _row_bytes(ggml_type, n_columns)
    if encoded.shape[1] != row_bytes:
        raise ValueError(
            f"{n_columns} weights of {ggml_type.name} take {row_bytes} bytes a row, not {encoded.shape[1]}"
        )
    if ggml_type.name == "F32":
        return encoded.view("<f4").copy()
    if not lib.can_dequantize(ggml_type.type_id):
        raise ValueError(f"{ggml_type.name} cannot be decoded")
    rows = np.empty((encoded.shape[0], n_columns), np.float32)
    lib.dequantize(ggml_type.type_id, encoded.ctypes.data, rows.ctypes.data, rows.size)
    return rows


def destination_of(ggml_type: GgmlType, rows: NDArray[np.float32], out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Return where to encode `rows`, uint8 (n_rows, row_bytes): the front of `out`, or a new array.

    Raises:
        ValueError: rows, type or buffer that an encoder cannot take.
    """
    if ggml_type not in ENCODABLE_TYPES:
        raise ValueError(f"{ggml_type.name} cannot be encoded")
    _check_array(rows, "rows", 2)
    n_rows, row_bytes = len(rows), _row_bytes(ggml_type, rows.shape[1])
    if out is None:
        return np.empty((n_rows, row_bytes), np.uint8)
    _check_array(out, "the buffer", 1, np.uint8)
    if out.size < n_rows * row_bytes or not out.flags.writeable:
        raise ValueError(f"the buffer must be writeable and have {n_rows * row_bytes} bytes, not {out.size}")
    return out[: n_rows * row_bytes].reshape(n_rows, row_bytes)


def _row_bytes(ggml_type: GgmlType, n_columns: int) -> int:
    if n_columns < 1:
        raise ValueError("rows of no columns")
    return ggml_type.row_bytes(n_columns)


def _check_array(array: NDArray[np.generic], what: str, n_dims: int, dtype: type[np.generic] = np.float32) -> None:
    if array.dtype != dtype or array.ndim != n_dims or not array.flags.c_contiguous or not array.flags.aligned:
        raise ValueError(
            f"{what} must be contiguous {dtype.__name__} of {n_dims} dimensions, not {array.dtype} {array.shape}"
        )


def check_imatrix(imatrix: NDArray[np.float32], n_columns: int) -> None:
    """Raise ValueError unless there is one finite number, not negative, for each column."""
    _check_array(imatrix, "the importance matrix", 1)
    if imatrix.size != n_columns:
        raise ValueError(f"an importance matrix of {imatrix.size} columns for rows of {n_columns}")
    if not (np.isfinite(imatrix).all() and imatrix.min() >= 0):
        raise ValueError("the importance matrix holds NaN, infinity or negative numbers")


def largest_weight(ggml_type: GgmlType) -> float:
    """Return the largest magnitude that the type encodes to something finite."""
    return _LARGEST_WEIGHT.get(ggml_type.name, _F16_MAX)


def check_weights(ggml_type: GgmlType, rows: NDArray[np.float32], first_row: int = 0) -> None:
    """Raise BadRowsError if a weight cannot be stored, with its place; `first_row` is the number of the first row.

    Compares the extremes, which are NaN if any weight is: a third of the time of np.isfinite over a large array.
    """
    limit = largest_weight(ggml_type)
    low, high = float(rows.min()), float(rows.max())
    if -limit <= low and high <= limit:
        return
    row, column = np.argwhere(~(np.abs(rows) <= limit))[0]
    raise BadRowsError(
        f"{rows[row, column]} at row {first_row + row}, column {column} cannot be stored as {ggml_type.name}"
    )
