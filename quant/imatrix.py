"""Importance matrices: for each weight matrix, how large its input columns were while the model read text.

    sums[m, c] = sum over the tokens that matrix m multiplied of x[c]^2;  counts[m] = the number of those tokens

The statistic of llama-imatrix (tools/imatrix/imatrix.cpp of llama.cpp 0c1e57098); a quantizer weighs the error of
column c by sums[m, c] / counts[m]. Keyed by the names of GGUF tensors, columns in the order of GGUF rows.
Files: quant/imatrix_file.py; against the tensors of a model: quant/imatrix_fit.py. Knows nothing of either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.errors import ImatrixMismatch
from quant.shown import named

_DIGEST_CHARS = 16


@dataclass(frozen=True, slots=True, eq=False)  # arrays do not compare to one bool
class ImatrixEntry:
    """The statistics of one tensor: a dense weight is one matrix, stacked experts are n_experts.

    Args:
        sums: f32 (n_matrices, n_columns), sums of squares; made read-only.
        counts: f32 (n_matrices,), tokens; 0 for an expert that was never routed to; made read-only.

    Raises:
        ValueError: other shapes or dtypes, nothing inside, or a number that is negative or not finite.
    """

    sums: NDArray[np.float32]
    counts: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.sums.ndim != 2 or self.counts.shape != self.sums.shape[:1] or self.sums.size == 0:
            raise ValueError(
                f"sums of shape {self.sums.shape} and counts of shape {self.counts.shape} do not go together"
            )
        for what, array in (("sum", self.sums), ("count", self.counts)):
            if array.dtype != np.float32:
                raise ValueError(f"{what}s must be float32, not {array.dtype}")
            if not np.isfinite(array).all():
                raise ValueError(f"a {what} is not finite")
            if array.min() < 0:
                raise ValueError(f"a {what} is negative")
            array.flags.writeable = False

    @property
    def n_matrices(self) -> int:
        """1 for a dense weight, the number of experts for stacked ones."""
        n_matrices: int = self.sums.shape[0]
        return n_matrices

    @property
    def n_columns(self) -> int:
        """Length of a row of the weight."""
        n_columns: int = self.sums.shape[1]
        return n_columns

    def mean_squares(self, matrix: int = 0) -> NDArray[np.float32]:
        """Return f32 (n_columns,), the weight of each column: all ones where no token was seen, as in llama-quantize.

        Source: load_imatrix in tools/quantize/quantize.cpp.
        """
        count = self.counts[matrix]
        if count == 0:
            return np.ones(self.n_columns, np.float32)
        means: NDArray[np.float32] = self.sums[matrix] / count
        return means

    def never_routed(self) -> tuple[int, ...]:
        """Return the matrices without a token, ascending."""
        return tuple(int(matrix) for matrix in np.flatnonzero(self.counts == 0))

    def plus(self, other: ImatrixEntry) -> ImatrixEntry:
        """Return the statistics over both texts.

        Raises:
            ValueError: the shapes differ.
        """
        if self.sums.shape != other.sums.shape:
            raise ValueError(f"{self.sums.shape} and {other.sums.shape}")
        sums = self.sums.astype(np.float64) + other.sums
        return ImatrixEntry(sums.astype(np.float32), self.counts + other.counts)


@dataclass(frozen=True, slots=True)
class Imatrix:
    """All statistics of a model.

    Args:
        entries: by name of the GGUF tensor.
        datasets: what was read, for people: file names.
        n_chunks: how many chunks of text the model read; 0 if not known.
        chunk_tokens: tokens in a chunk; 0 if not known.

    Raises:
        ValueError: a negative number.
    """

    entries: Mapping[str, ImatrixEntry]
    datasets: tuple[str, ...] = ()
    n_chunks: int = 0
    chunk_tokens: int = 0

    def __post_init__(self) -> None:
        if self.n_chunks < 0 or self.chunk_tokens < 0:
            raise ValueError(f"{self.n_chunks} chunks of {self.chunk_tokens} tokens")

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with anything a conversion would make of this: a part of its identity."""
        whole = hashlib.sha256(repr((self.datasets, self.n_chunks, self.chunk_tokens)).encode())
        for name in sorted(self.entries):
            entry = self.entries[name]
            whole.update(f"\n{name} {entry.sums.shape}\n".encode())
            whole.update(np.ascontiguousarray(entry.sums, "<f4").data)
            whole.update(np.ascontiguousarray(entry.counts, "<f4").data)
        return whole.hexdigest()[:_DIGEST_CHARS]

    def merged(self, other: Imatrix) -> Imatrix:
        """Return the statistics over both texts, as if one run had read them.

        Chunks of the other are counted in chunks of this one.

        Raises:
            ImatrixMismatch: a tensor has another shape in the other.
        """
        entries = dict(self.entries)
        for name, entry in other.entries.items():
            try:
                entries[name] = entry if name not in entries else entries[name].plus(entry)
            except ValueError as error:
                raise ImatrixMismatch(
                    f"{named(name)} has statistics of other shapes: {error}", "merge importance matrices of one model"
                ) from error
        chunk_tokens = self.chunk_tokens or other.chunk_tokens
        n_chunks = self.n_chunks + other.n_chunks
        if self.chunk_tokens and other.chunk_tokens:
            n_chunks = self.n_chunks + round(other.n_chunks * other.chunk_tokens / self.chunk_tokens)
        return Imatrix(entries, self.datasets + other.datasets, n_chunks, chunk_tokens)
