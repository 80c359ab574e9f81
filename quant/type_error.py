"""What each type would cost each tensor, measured: encode a sample of its rows, decode them, compare.

    error(tensor, type) = Σ s[c]·(w[r, c] − ŵ[r, c])²  /  Σ s[c]·w[r, c]²

over sampled rows r and all columns c; s are the sums of squares of the importance matrix, an expert's own, so that
an expert counts by the tokens that it was given; without statistics s = 1. This is the relative error of the layer's
output for inputs whose columns do not correlate. Knows nothing of what an error does to the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from quant.codecs.native import BadRowsError, decode_rows
from quant.codecs.row_encoder import RowEncoder
from quant.errors import BadWeights
from quant.ggml_types import GgmlType
from quant.imatrix import ImatrixEntry
from quant.tensor_names import SourceRows, TargetTensor
from quant.tensor_read import TensorReader

SAMPLED_WEIGHTS = 1 << 20
"""Of a tensor. Errors of single rows differ by tens of percent, their average over this many by less than one."""

_BLOCK_ROWS = 16  # read and encoded together


def sampled_rows(target: TargetTensor, n_weights: int = SAMPLED_WEIGHTS) -> Iterator[tuple[int, SourceRows]]:
    """Yield (matrix, rows) of the tensor to look at: blocks spread evenly over its matrices and their rows. Pure."""
    stacked = len(target.shape) > 2
    n_blocks = max(1, n_weights // (_BLOCK_ROWS * target.shape[-1]))
    n_sources = len(target.sources)
    n_sampled = min(n_sources, n_blocks)
    for sample in range(n_sampled):
        number = (2 * sample + 1) * n_sources // (2 * n_sampled)
        for rows in _spread(target.sources[number], max(1, n_blocks // n_sampled)):
            yield number if stacked else 0, rows


def _spread(source: SourceRows, n_blocks: int) -> Iterator[SourceRows]:
    n_rows = min(_BLOCK_ROWS, source.n_rows)
    n_blocks = min(n_blocks, source.n_rows // n_rows)
    for block in range(n_blocks):  # the middle of each of n_blocks equal stretches
        first, after = (source.n_rows * number // n_blocks for number in (block, block + 1))
        first += (after - first - n_rows) // 2
        yield SourceRows(source.info, source.first_row + first, n_rows)


def relative_errors(
    target: TargetTensor,
    types: Sequence[GgmlType],
    entry: ImatrixEntry | None,
    reader: TensorReader,
    encoder: RowEncoder,
) -> dict[str, float]:
    """Return the relative error of each of `types`, by name; 0 for a tensor of zeros.

    Args:
        target: what to look at.
        types: whose blocks divide its rows.
        entry: its statistics.
        reader: of the source's files.
        encoder: the one that will be used.

    Raises:
        BadWeights: NaN, infinity, or a weight too large for a type.
        FileFormatError: the source cannot be read.
    """
    signal = 0.0
    errors = dict.fromkeys((one.name for one in types), 0.0)
    for matrix, sample in sampled_rows(target):
        rows = reader.read_rows_f32(sample.info, sample.first_row, sample.n_rows)
        importance = None if entry is None else entry.mean_squares(matrix)
        weights = _energy_weights(entry, matrix, rows.shape[1])
        signal += _energy(rows, weights)
        for one in types:
            decoded = _round_trip(target, one, rows, importance, encoder)
            decoded -= rows
            errors[one.name] += _energy(decoded, weights)
    return {name: error / signal if signal > 0 else 0.0 for name, error in errors.items()}


def _energy(rows: NDArray[np.float32], weights: NDArray[np.float64]) -> float:
    """Weighted sum of squares; a column's, over 16 rows, is exact enough in f32."""
    return float(np.einsum("ij,ij->j", rows, rows) @ weights)


def _energy_weights(entry: ImatrixEntry | None, matrix: int, n_columns: int) -> NDArray[np.float64]:
    """What a column counts: the sum over tokens. An expert that no token reached counts as one that one token did."""
    if entry is None:
        return np.ones(n_columns)
    if entry.counts[matrix] == 0:
        return np.full(n_columns, float(entry.sums.mean() / max(float(entry.counts.mean()), 1.0)))
    energies: NDArray[np.float64] = entry.sums[matrix].astype(np.float64)
    return energies


def _round_trip(
    target: TargetTensor,
    ggml_type: GgmlType,
    rows: NDArray[np.float32],
    importance: NDArray[np.float32] | None,
    encoder: RowEncoder,
) -> NDArray[np.float32]:
    try:
        encoded = encoder.encode(ggml_type, rows, importance)
    except BadRowsError as error:
        raise BadWeights(f"{target.name}: {error}", "the checkpoint is damaged: download it again") from None
    return decode_rows(encoder.lib, ggml_type, encoded, rows.shape[1])
