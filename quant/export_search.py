"""Find the factors of one site: read some rows of every matrix behind it, and try what helps them.

The rows are a sample, in runs of sixteen spread evenly over each matrix: rows are alike in what the factors are chosen
by, the columns' magnitudes, and every expert has its say, weighed by the energy that the text sent to it. A pass over
all weights would find the same factors in ten times the time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quant.awq_scales import ChannelChoice, SampledRows, choose_factors, norm_rounding
from quant.export_folds import ScaleSite
from quant.export_inputs import InputWeights
from quant.export_plan import ExportPlan, kept_type
from quant.export_rows import SourceRowReader, round_stored
from quant.export_tensors import ExportTensor

F32 = NDArray[np.float32]

SITE_WEIGHTS = 1 << 22
"""Sampled behind a norm or for an attention output; less only where the matrices are smaller."""

EXPERT_ROWS = 64
"""Sampled of a matrix that has a site of its own, as each expert's down_proj has."""

_RUN = 16  # rows read together


def search_site(plan: ExportPlan, site: ScaleSite, rows: SourceRowReader, inputs: InputWeights) -> ChannelChoice:
    """Return the factors of `site`.

    Args:
        plan: whose site it is.
        site: where.
        rows: reads weights.
        inputs: weighs columns.

    Raises:
        BadWeights: NaN or infinity among the sampled weights.
        FileFormatError: the source cannot be read.
    """
    packed = [number for number in site.multiplied if plan.tensors[number].is_packed]
    samples = [
        SampledRows(
            sample_rows(plan.tensors[number], _n_rows(plan.tensors[number], len(packed)), rows), inputs.energy(number)
        )
        for number in packed
    ]
    if site.is_norm:
        norm = plan.tensors[site.divided[0]]
        type_name = kept_type(norm.source.info)
        rounded = norm_rounding(rows.read(norm, 0, 1).reshape(-1), lambda values: round_stored(values, type_name))
    else:
        rounded = _unchanged
    return choose_factors(
        samples,
        plan.kind.group_size,
        site.n_channels,
        spread=site.spread,
        gathered=site.gathered,
        rounded=rounded,
    )


def sampled_weights(plan: ExportPlan, site: ScaleSite) -> int:
    """Return about how many weights the search for a site reads."""
    packed = [plan.tensors[number] for number in site.multiplied if plan.tensors[number].is_packed]
    return sum(min(tensor.n_rows, _n_rows(tensor, len(packed))) * tensor.n_columns for tensor in packed)


def sample_rows(tensor: ExportTensor, n_rows: int, rows: SourceRowReader) -> F32:
    """Return about `n_rows` rows of a matrix, f32 (n_rows, n_columns), in runs spread evenly; all if it has no more."""
    n_runs = max(1, n_rows // _RUN)
    if n_runs * _RUN >= tensor.n_rows:
        return rows.read(tensor, 0, tensor.n_rows)
    firsts = [(tensor.n_rows - _RUN) * run // max(1, n_runs - 1) for run in range(n_runs)]
    return np.concatenate([rows.read(tensor, first, _RUN) for first in firsts])


def _n_rows(tensor: ExportTensor, n_matrices: int) -> int:
    share = SITE_WEIGHTS // (n_matrices * tensor.n_columns)
    return max(_RUN, min(share, EXPERT_ROWS) if n_matrices == 1 and tensor.expert is not None else share)


def _unchanged(factors: F32) -> F32:
    return factors
