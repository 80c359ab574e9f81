"""Read rows of a stored tensor as f32: positioned reads into one buffer, safe from several threads, bounded memory.

The two bytes a weight of BF16 and F16 are read into the upper half of the caller's f32 buffer and widened in place from
the front, so a read takes no memory beyond that buffer and one chunk:

    buffer, 4 n bytes     |  f32 0, f32 1, …  →        | b0 b1 b2 …           |
                                                       2 n                  4 n

Weights that were quantized before compute their rows themselves, from columns of their parts that are read here.
Knows nothing of file formats beyond TensorInfo: it reads tensors of safetensors and unquantized GGUF alike.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from quant.column_read import ColumnReader
from quant.errors import FileFormatError, UnsupportedTensor
from quant.source_files import DISK, Openable
from quant.source_tensor import SourceTensor
from quant.tensor_info import TensorInfo

_WEIGHT_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_CHUNK_WEIGHTS = 1 << 16


class TensorReader:
    """Reads from any number of files, each opened once. One reader serves all threads: reads carry their position.

    Args:
        source: where the files are.
    """

    def __init__(self, source: Openable = DISK) -> None:
        self._files = source.open()
        self._columns = ColumnReader(self.read_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files. No other thread may still be reading."""
        self._files.close()

    def read_rows_f32(
        self, info: SourceTensor, first_row: int, n_rows: int, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return rows `first_row` to `first_row + n_rows` as f32 (n_rows, n_columns).

        Args:
            info: a tensor stored as F32, F16 or BF16, or a weight computed from its parts.
            first_row: counted over all outer dimensions.
            n_rows: how many; they must exist.
            out: C-contiguous f32 with at least n_rows * n_columns elements, whose front is filled and returned as a
                view; None: a new array.

        Raises:
            UnsupportedTensor: stored as another type.
            FileFormatError: the file ends too early or cannot be read.
            ValueError: rows or a buffer that do not fit the tensor.
        """
        if isinstance(info, TensorInfo) and info.dtype not in _WEIGHT_BYTES:
            raise _unsupported(info)
        if not 0 <= first_row <= first_row + n_rows <= info.n_rows:
            raise ValueError(f"{info.name} has {info.n_rows} rows, not {first_row} to {first_row + n_rows}")
        n_weights = n_rows * info.n_columns
        buffer = np.empty(n_weights, np.float32) if out is None else _front(out, n_weights)
        rows = buffer.reshape(n_rows, info.n_columns)
        if isinstance(info, TensorInfo):
            self._read_stored(info, first_row, buffer)
        else:
            info.fill_rows(self, first_row, rows)
        return rows

    def read_columns(self, info: TensorInfo, first_column: int, n_columns: int) -> NDArray[Any]:
        """Return columns (n_rows, n_columns) of a matrix of I32, F32, F16 or BF16, the last as uint16.

        They may be a view of a panel kept for the next call, of 32 MiB in all (see `quant.column_read`): not to be
        written to.

        Raises:
            FileFormatError: the file ends too early or cannot be read.
            ValueError: another type, no matrix, no columns, or some that it does not have.
        """
        return self._columns.read(info, first_column, n_columns)

    def _read_stored(self, info: TensorInfo, first_row: int, buffer: NDArray[np.float32]) -> None:
        stored_bytes = buffer.size * _WEIGHT_BYTES[info.dtype]
        stored = buffer.view(np.uint8)[buffer.nbytes - stored_bytes :]
        self._fill(info, first_row * info.n_columns * _WEIGHT_BYTES[info.dtype], stored)
        if info.dtype == "BF16":
            _widen_bf16(stored.view("<u2"), buffer.view(np.uint32))
        elif info.dtype == "F16":
            _widen_f16(stored.view("<f2"), buffer)

    def read_bytes(self, info: TensorInfo, first_byte: int, out: NDArray[np.uint8]) -> None:
        """Fill `out`, uint8 (n,), with the stored bytes of a tensor of any type from its byte `first_byte` on.

        Raises:
            FileFormatError: the file ends too early or cannot be read.
            ValueError: bytes that are not the tensor's.
        """
        if not 0 <= first_byte <= first_byte + out.size <= info.n_bytes:
            raise ValueError(f"{info.name} has {info.n_bytes} bytes, not {first_byte} to {first_byte + out.size}")
        self._fill(info, first_byte, out)

    def _fill(self, info: TensorInfo, first_byte: int, out: NDArray[np.uint8]) -> None:
        view = out.data
        done = 0
        try:
            while done < len(view):
                read = self._files.read_into(info.path, info.offset_bytes + first_byte + done, view[done:])
                if read == 0:
                    detail = f"tensor {info.name}: the file ends {len(view) - done:,} bytes too early"
                    raise FileFormatError(info.path, detail, "it became shorter since it was opened: download it again")
                done += read
        except OSError as error:
            raise FileFormatError(info.path, f"tensor {info.name}: {error.strerror or error}") from error


def read_rows_f32(info: SourceTensor, first_row: int = 0, n_rows: int | None = None) -> NDArray[np.float32]:
    """Return rows of one tensor as f32 (n_rows, n_columns), from a file opened for this read; None: all rows.

    Raises: as `TensorReader.read_rows_f32`.
    """
    with TensorReader() as reader:
        return reader.read_rows_f32(info, first_row, info.n_rows - first_row if n_rows is None else n_rows)


def _front(out: NDArray[np.float32], n_weights: int) -> NDArray[np.float32]:
    if out.dtype != np.float32 or not out.flags.c_contiguous or not out.flags.writeable or out.size < n_weights:
        raise ValueError(f"the buffer must be contiguous, writeable float32 with at least {n_weights} elements")
    return out.reshape(-1)[:n_weights]


def _widen_bf16(stored: NDArray[np.uint16], out: NDArray[np.uint32]) -> None:
    """Put the bits of each bf16 into the upper half of an f32. numpy copies the chunk where both overlap."""
    for first in range(0, stored.size, _CHUNK_WEIGHTS):
        chunk = slice(first, first + _CHUNK_WEIGHTS)
        np.left_shift(stored[chunk], np.uint32(16), out=out[chunk], dtype=np.uint32)


def _widen_f16(stored: NDArray[np.float16], out: NDArray[np.float32]) -> None:
    for first in range(0, stored.size, _CHUNK_WEIGHTS):
        chunk = slice(first, first + _CHUNK_WEIGHTS)
        np.copyto(out[chunk], stored[chunk])


def _unsupported(info: TensorInfo) -> UnsupportedTensor:
    hint = "use the model's BF16 release" if info.dtype.startswith(("F8_", "F6_", "F4", "I", "U")) else None
    return UnsupportedTensor(
        f"{info.path}: tensor {info.name} is stored as {info.dtype}; F32, F16 and BF16 can be read as weights", hint
    )
