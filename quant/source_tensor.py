"""What a conversion reads: a tensor that lies in a file, or one whose rows are computed from others that do.

    TensorInfo        BF16, F16, F32: a row is a stretch of bytes
    DecodedTensor     a weight that was quantized before: rows are computed from packed numbers, scales and zeros

Both have names, shapes and files, so planning need not tell them apart; `quant.tensor_read.TensorReader` gives rows of
either as f32. Knows nothing of what is packed how.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quant.tensor_info import FileRange, TensorInfo


class PartReader(Protocol):
    """Reads the parts that a weight is computed from; safe from several threads."""

    def read_columns(self, info: TensorInfo, first_column: int, n_columns: int) -> NDArray[Any]:
        """Return columns of a stored matrix; see `TensorReader.read_columns`."""
        ...

    def read_bytes(self, info: TensorInfo, first_byte: int, out: NDArray[np.uint8]) -> None:
        """Fill `out` with stored bytes; see `TensorReader.read_bytes`."""
        ...


class DecodedTensor(ABC):
    """A weight that no file holds as such. Subclasses are values: equal ones read equal rows."""

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the weight, as if it were stored."""

    @property
    @abstractmethod
    def dtype(self) -> str:
        """How it is stored, in a word or two."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""

    @property
    @abstractmethod
    def parts(self) -> tuple[TensorInfo, ...]:
        """The tensors it is computed from, the largest first."""

    @abstractmethod
    def fill_rows(self, reader: PartReader, first_row: int, rows: NDArray[np.float32]) -> None:
        """Fill `rows`, f32 (n_rows, n_columns), with the weight's rows from `first_row` on.

        Raises:
            FileFormatError: a file ends too early, cannot be read, or holds numbers that mean nothing.
        """

    @property
    def path(self) -> Path:
        """The file to name when something is wrong with the weight."""
        return self.parts[0].path

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files it lies in, each once."""
        return tuple(dict.fromkeys(part.path for part in self.parts))

    @property
    def n_bytes(self) -> int:
        """Bytes in the files."""
        return sum(part.n_bytes for part in self.parts)

    @property
    def n_weights(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def n_columns(self) -> int:
        """Length of a row."""
        return self.shape[1]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def needed_from(self, first_row: int, n_rows: int) -> tuple[FileRange, ...]:
        """Return what reading these rows is the first to need: all of it where they begin the weight."""
        return self._ranges() if first_row == 0 < n_rows else ()

    def needed_until(self, first_row: int, n_rows: int) -> tuple[FileRange, ...]:
        """Return what reading these rows is the last to need: all of it where they end the weight."""
        return self._ranges() if first_row + n_rows == self.n_rows else ()

    def _ranges(self) -> tuple[FileRange, ...]:
        return tuple(FileRange(part.path, part.offset_bytes, part.n_bytes) for part in self.parts)


SourceTensor = TensorInfo | DecodedTensor
