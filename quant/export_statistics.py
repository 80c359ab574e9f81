"""What a text has shown of matrices' inputs: sums of squares of each column, and how columns go together.

From an importance matrix, from second moments, from both, or from neither. What stands in where nothing is known:
quant/export_inputs.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.errors import ImatrixMismatch
from quant.export_tensors import ExportTensor
from quant.imatrix import Imatrix
from quant.imatrix_fit import check_fits
from quant.second_moments import SecondMoments

F32 = NDArray[np.float32]

MAX_FACTORED_COLUMNS = 12288
"""Of second moments that are used: factoring takes two matrices of f64, 1.2 GB each at this size."""


@dataclass(frozen=True, slots=True)
class SeenInput:
    """Sums of squares of a matrix's columns, over `n_tokens` tokens; `mean_of_experts`: a token of any expert."""

    sums: F32  # (n_columns,)
    n_tokens: float
    mean_of_experts: F32  # (n_columns,)


@dataclass(frozen=True, slots=True)
class ActivationStatistics:
    """Statistics that fit the model, or none."""

    imatrix: Imatrix | None = None
    moments: SecondMoments | None = None

    def seen(self, tensor: ExportTensor) -> SeenInput | None:
        """Return what is known of the columns of a tensor's input; None: nothing, of no expert."""
        entry = None if self.imatrix is None else self.imatrix.entries.get(tensor.gguf_name)
        if entry is not None and entry.counts.any():
            total = np.float32(entry.counts.sum(dtype=np.float64))
            mean: F32 = (entry.sums.sum(axis=0, dtype=np.float64) / total).astype(np.float32)
            return SeenInput(entry.sums[tensor.matrix].copy(), float(entry.counts[tensor.matrix]), mean)
        moments = self.moments_for(tensor)
        if moments is None:
            return None
        sums = np.diagonal(moments.moments(tensor.gguf_name, tensor.matrix)).copy()
        count = moments.count(tensor.gguf_name, tensor.matrix)
        return SeenInput(sums, count, sums / np.float32(count))

    def moments_for(self, tensor: ExportTensor) -> SecondMoments | None:
        """Return the second moments if those of the tensor's input are among them, of any token and not too large."""
        moments = self.moments
        if moments is None or tensor.gguf_name not in moments or tensor.n_columns > MAX_FACTORED_COLUMNS:
            return None
        return moments if moments.count(tensor.gguf_name, tensor.matrix) > 0 else None


@dataclass(frozen=True, slots=True)
class FittedStatistics:
    """Statistics held against a model, and what they lack, in words."""

    statistics: ActivationStatistics
    never_routed: tuple[str, ...] = ()  # experts that no token reached: blk.0.ffn_down_exps 3, 17
    unweighted: tuple[str, ...] = ()  # GGUF names of packed tensors without statistics


def fit_statistics(
    tensors: Sequence[ExportTensor],
    shapes: Mapping[str, tuple[int, ...]],
    imatrix: Imatrix | None,
    moments: SecondMoments | None,
) -> FittedStatistics:
    """Hold statistics against the model.

    Args:
        tensors: of the export.
        shapes: of all tensors, by GGUF name, stacked as there.
        imatrix: as it was read, None where there is none.
        moments: likewise.

    Raises:
        ImatrixMismatch: of another model.
    """
    never: list[str] = []
    if imatrix is not None:
        fit = check_fits(imatrix, shapes)
        imatrix = fit.imatrix
        never = [f"{name.removesuffix('.weight')} {', '.join(map(str, experts))}" for name, experts in fit.never_routed]
    if moments is not None:
        _check_moments(moments, shapes)
    statistics = ActivationStatistics(imatrix, moments)
    known = set(imatrix.entries if imatrix else ()) | set(moments or ())
    unweighted = dict.fromkeys(t.gguf_name for t in tensors if t.is_packed and known and t.gguf_name not in known)
    return FittedStatistics(statistics, tuple(never), tuple(unweighted))


def _check_moments(moments: SecondMoments, shapes: Mapping[str, tuple[int, ...]]) -> None:
    known = [name for name in moments if name in shapes]
    if not known:
        raise ImatrixMismatch(f"{moments.path}: second moments of another model: none of its tensors is in this one")
    for name in known:
        n_matrices, shape = moments.n_matrices(name), shapes[name]
        if moments.n_columns(name) != shape[-1] or n_matrices not in (1, shape[0] if len(shape) == 3 else 1):
            raise ImatrixMismatch(
                f"{moments.path}: second moments of another model: those of {name} are {n_matrices} x "
                f"{moments.n_columns(name)} columns, the tensor is {' x '.join(map(str, shape))}"
            )
