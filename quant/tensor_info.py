"""Where a tensor lies: the one noun that both file formats, the plan and the pipeline share.

Knows nothing of what the tensor means.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileRange:
    """Consecutive bytes of a file."""

    path: Path
    offset_bytes: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor in a file.

    `shape` is in numpy order, outermost first, in both formats: (n_experts, rows, columns). GGUF files store it
    reversed. `dtype` is the format's own name: "BF16", "F32" in safetensors; "F32", "Q4_K" … in GGUF.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset_bytes: int  # from the start of the file
    n_bytes: int

    @property
    def n_weights(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def n_columns(self) -> int:
        """Length of a row: the innermost dimension, along which blocks lie."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        """Number of rows, over all outer dimensions."""
        return prod(self.shape[:-1])

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files it lies in: one."""
        return (self.path,)

    def needed_from(self, first_row: int, n_rows: int) -> tuple[FileRange, ...]:
        """Return what reading these rows is the first to need: their own bytes."""
        row_bytes = self.n_bytes // self.n_rows
        return (FileRange(self.path, self.offset_bytes + first_row * row_bytes, n_rows * row_bytes),)

    def needed_until(self, first_row: int, n_rows: int) -> tuple[FileRange, ...]:
        """Return what reading these rows is the last to need: their own bytes."""
        return self.needed_from(first_row, n_rows)
