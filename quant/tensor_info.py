"""Where a tensor lies: the one noun that both file formats, the plan and the pipeline share.

Knows nothing of what the tensor means.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path


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
