"""Read rows of an export's source as f32, checked, and write 16-bit rows as the output stores them.

Knows nothing of packing: quant/export_encoder.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.errors import BadWeights
from quant.export_tensors import ExportTensor
from quant.tensor_read import TensorReader

F32 = NDArray[np.float32]


class SourceRowReader:
    """Rows of tensors, safe from several threads.

    Args:
        reader: open for as long as rows are read.
    """

    def __init__(self, reader: TensorReader) -> None:
        self._reader = reader

    def read(self, tensor: ExportTensor, first_row: int, n_rows: int) -> F32:
        """Return rows of a tensor, f32 (n_rows, n_columns); a vector is one row.

        Raises:
            BadWeights: NaN or infinity.
            FileFormatError: the file ends too early or cannot be read.
        """
        first = tensor.source.first_row + first_row
        rows = self._reader.read_rows_f32(tensor.source.info, first, n_rows)
        if not np.isfinite(rows).all():
            raise not_finite(tensor, first_row, rows)
        return rows


def not_finite(tensor: ExportTensor, first_row: int, rows: F32) -> BadWeights:
    """Return the error that says where among `rows`, which begin at `first_row`, the first bad weight is."""
    row, column = np.unravel_index(int(np.flatnonzero(~np.isfinite(rows).reshape(-1))[0]), rows.shape)
    return BadWeights(
        f"{tensor.source.info.path.name}: tensor {tensor.name} holds {rows[row, column]} "
        f"at row {first_row + int(row)}, column {column}, which no export can store",
        "the checkpoint is damaged: download it again",
    )


def round_stored(values: F32, type_name: str) -> F32:
    """Return the nearest values of BF16 or F16, as f32; beyond the range of F16, infinity."""
    if type_name == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    return (stored_bits(values, type_name).astype(np.uint32) << np.uint32(16)).view(np.float32)


def stored_bits(values: F32, type_name: str) -> NDArray[Any]:
    """Return finite values as they lie in a file: F16, or the bits of BF16 as uint16, rounded to nearest even."""
    if type_name == "F16":
        with np.errstate(over="ignore"):
            return values.astype("<f2")
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return rounded.astype("<u2")
