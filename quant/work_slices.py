"""Cut the tensors of a conversion into units of work: consecutive rows with a fixed place in the output file.

A slice's rows lie in one tensor of the source, so one positioned read fetches them and one positioned write stores
them. Slices depend on nothing but shapes and types: any number of workers may do them in any order, and a later run may
do those that an earlier one left. Pure; reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from quant.gguf_write import PlacedTensor
from quant.tensor_names import SourceRows, TargetTensor

MAX_SLICE_WEIGHTS = 1 << 21
"""Two million weights are 8 MiB as f32, 4 MiB as BF16: the memory of a worker stays below 16 MiB, and one slice takes a
fraction of a second, which is what a Ctrl-C waits for. An expert of Qwen3-30B-A3B is one slice, of 235B three."""


@dataclass(frozen=True, slots=True)
class WorkSlice:
    """Rows to read, encode and write, all of one matrix: `tensor` is the index of the target in the layout."""

    tensor: int
    matrix: int  # which of a tensor's stacked matrices: the expert, else 0
    source: SourceRows
    offset_bytes: int  # in the output file
    n_bytes: int  # encoded

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return self.source.n_rows * self.source.info.n_columns

    @property
    def file(self) -> int:
        """Which of the output's files: a GGUF file is one."""
        return 0


def cut_slices(
    targets: Sequence[TargetTensor], placed: Sequence[PlacedTensor], max_weights: int = MAX_SLICE_WEIGHTS
) -> tuple[WorkSlice, ...]:
    """Return the slices in the order of the file. Those of one tensor cover it without gap or overlap.

    Args:
        targets: what each tensor is made of.
        placed: where each goes; the same tensors in the same order.
        max_weights: upper bound of a slice, but for rows longer than that.
    """
    return tuple(
        work
        for index, (target, place) in enumerate(zip(targets, placed, strict=True))
        for work in _slices_of(index, target, place, max_weights)
    )


def _slices_of(index: int, target: TargetTensor, place: PlacedTensor, max_weights: int) -> Iterator[WorkSlice]:
    n_columns = target.shape[-1]
    row_bytes = place.type.row_bytes(n_columns)
    offset = place.offset_bytes
    stacked = len(target.shape) > 2
    for number, rows in enumerate(target.sources):  # of stacked matrices, one source is one matrix
        for part in _split_rows(rows, max(1, max_weights // n_columns)):
            yield WorkSlice(index, number if stacked else 0, part, offset, part.n_rows * row_bytes)
            offset += part.n_rows * row_bytes
    if offset != place.offset_bytes + place.n_bytes:
        raise ValueError(f"the sources of {target.name} do not add up to its rows")


def _split_rows(rows: SourceRows, max_rows: int) -> Iterator[SourceRows]:
    """Split into parts of nearly equal size."""
    n_parts = -(-rows.n_rows // max_rows)
    cuts = [rows.n_rows * i // n_parts for i in range(n_parts + 1)]
    for first, after in pairwise(cuts):
        yield SourceRows(rows.info, rows.first_row + first, after - first)
