"""How much each column of a matrix counts: as a text has shown, and where it has shown nothing, as weights suggest.

    behind a norm         norm^2
    behind v_proj         norm^2 through W_v:                 sum over columns of W_v^2 * norm^2
    behind up_proj        the same of gate_proj times that of up_proj: silu(gate) * up

as if a norm's input had the same energy in every channel. Of a trained model (SmolLM2-135M) such guesses halve the
squared error that columns of equal weight leave, and statistics of a text quarter it: they are what to have.

An expert that few tokens reached borrows as if it had seen `PRIOR_TOKENS` more: gate_proj and up_proj of all experts of
a layer read the same norm's output, so theirs are the layer's average; for down_proj the guess stands in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quant.export_plan import ExportPlan
from quant.export_rows import SourceRowReader
from quant.export_tensors import ExportTensor

F32 = NDArray[np.float32]

PRIOR_TOKENS = np.float32(16.0)
ENOUGH_TOKENS = 512
"""An expert that saw so many borrows nothing."""

_LEAST = np.float32(1e-5)  # of the mean: a column that was always 0 in the text need not be in another
_CHUNK_WEIGHTS = 1 << 20


def read_to_guess(plan: ExportPlan, number: int) -> tuple[int, ...]:
    """Return the matrices that are read whole to weigh one's columns: none where a text has told, or a norm does."""
    tensor, origin = plan.tensors[number], plan.origins[number]
    if origin is None or plan.sites[origin].is_norm or not _is_guessed(plan, tensor):
        return ()
    site = plan.sites[origin]
    return (site.divided[0],) if site.gate is None else (site.divided[0], site.gate)


def _is_guessed(plan: ExportPlan, tensor: ExportTensor) -> bool:
    """Tell whether a guess has a part in the weights of a matrix's columns."""
    seen = plan.statistics.seen(tensor)
    if seen is None:
        return True
    return tensor.expert is not None and seen.n_tokens < ENOUGH_TOKENS and tensor.part == "down_proj.weight"


class InputWeights:
    """Weights of the columns of a plan's matrices; safe from several threads.

    Args:
        plan: whose matrices.
        rows: reads the source.
    """

    def __init__(self, plan: ExportPlan, rows: SourceRowReader) -> None:
        self._plan = plan
        self._rows = rows

    def importance(self, number: int) -> F32:
        """Return the weight of each column of a matrix, f32 (n_columns,), 1 on average."""
        energy = self.energy(number)
        level = float(energy.mean(dtype=np.float64))
        if level <= 0:
            return np.ones_like(energy)
        weights: F32 = np.maximum(energy / np.float32(level), _LEAST)
        return weights

    def energy(self, number: int) -> F32:
        """Return the sum of squares of each column over the text, f32 (n_columns,): comparable among experts.

        Raises:
            BadWeights, FileFormatError: weights that a guess rests on cannot be read.
        """
        tensor = self._plan.tensors[number]
        seen = self._plan.statistics.seen(tensor)
        if seen is None:
            return self._guess(number)
        if tensor.expert is None or seen.n_tokens >= ENOUGH_TOKENS:
            return seen.sums
        prior = seen.mean_of_experts
        if tensor.part == "down_proj.weight":
            guess = self._guess(number)
            prior = guess * (prior.mean() / max(float(guess.mean()), 1e-30))
        known: F32 = seen.sums + PRIOR_TOKENS * prior
        return known

    def _guess(self, number: int) -> F32:
        """Return what the weights in front of a matrix suggest, f32 (n_columns,)."""
        origin = self._plan.origins[number]
        if origin is None:
            return np.ones(self._plan.tensors[number].n_columns, np.float32)
        site = self._plan.sites[origin]
        if site.is_norm:
            norm = self._rows.read(self._plan.tensors[site.divided[0]], 0, 1).reshape(-1)
            return norm * norm
        energy = self._row_energy(site.divided[0])
        if site.gate is not None:
            energy = energy * self._row_energy(site.gate)
        return site.spread(energy)

    def _row_energy(self, number: int) -> F32:
        """Return the energy of each output of a matrix, f32 (n_rows,), for the input that is guessed."""
        tensor = self._plan.tensors[number]
        energy = np.empty(tensor.n_rows, np.float32)
        columns = self._guess(number)
        step = max(1, _CHUNK_WEIGHTS // tensor.n_columns)
        for first in range(0, tensor.n_rows, step):
            rows = self._rows.read(tensor, first, min(step, tensor.n_rows - first))
            energy[first : first + len(rows)] = (rows * rows) @ columns
        return energy
