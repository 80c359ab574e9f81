"""Second moments of what weights are multiplied with, X^T X, for as many inputs as a budget of memory allows.

    which inputs     `plan_moments`, pure: those whose moments help most for their size first
    1 matrix         a dense weight's input, or all tokens of an expert layer, whichever experts they go to
    n_experts        a matrix an expert

Float32 sums of float32 products of a micro-batch. Knows nothing of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from quant.second_moments import MomentsEntry
from qwenctl.services.activation_sums import Rows

_FLOAT_BYTES = 4


def plan_moments(
    members: Mapping[str, Iterable[str]], shapes: Mapping[str, tuple[int, ...]], budget_bytes: int
) -> dict[str, int]:
    """Return how many matrices each input gets, by its name; those that do not fit are absent.

    In this order: inputs of dense weights, the shortest first; then the common input of each expert layer's gate and
    up; then down of each expert; and last gate and up of each expert in place of the common one.

    Args:
        members: the weights that share an input, by its name.
        shapes: of the weights, numpy order.
        budget_bytes: for all matrices together.
    """
    experts = {name: shapes[name] for name in members if len(shapes[name]) == 3}
    common = {name for name in experts if not name.endswith("_down_exps.weight")}
    dense = [name for name, weights in members.items() if len(shapes[name]) == 2 and not are_routers(weights)]
    wanted = [*((name, 1) for name in sorted(dense, key=lambda name: shapes[name][-1]))]
    wanted += [(name, 1) for name in experts if name in common]
    wanted += [(name, shape[0]) for name, shape in experts.items() if name not in common]
    wanted += [(name, shape[0]) for name, shape in experts.items() if name in common]
    chosen: dict[str, int] = {}
    left_bytes = budget_bytes
    for name, n_matrices in wanted:
        more_bytes = (n_matrices - chosen.get(name, 0)) * _FLOAT_BYTES * shapes[name][-1] ** 2
        if more_bytes <= left_bytes:
            chosen[name] = n_matrices
            left_bytes -= more_bytes
    return chosen


class ActivationMoments:
    """Totals so far. An `ActivationSink`.

    Args:
        n_matrices: of each input that is gathered; others are ignored. May be set before the first input comes.
    """

    def __init__(self, n_matrices: Mapping[str, int] | None = None) -> None:
        self.n_matrices: Mapping[str, int] = n_matrices or {}
        self.moments: dict[str, npt.NDArray[np.float32]] = {}  # (n_matrices, n_columns, n_columns)
        self.counts: dict[str, npt.NDArray[np.float64]] = {}  # (n_matrices,)

    def add_rows(self, name: str, rows: Rows) -> None:
        """See `ActivationSink`."""
        if name in self.n_matrices:
            self._add(name, 0, rows)

    def add_routed(self, name: str, n_experts: int, x: Rows, routed: npt.NDArray[np.int32]) -> None:  # noqa: ARG002
        """See `ActivationSink`."""
        if self.n_matrices.get(name) == 1:
            self._add(name, 0, x)
        elif name in self.n_matrices:
            for expert in np.unique(routed).tolist():
                self._add(name, expert, x[(routed == expert).any(axis=1)])

    def add_grouped(
        self,
        name: str,
        n_experts: int,  # noqa: ARG002
        experts: Sequence[int],
        counts: Sequence[int],
        rows: Rows,
    ) -> None:
        """See `ActivationSink`."""
        if name not in self.n_matrices:
            return
        end = 0
        for expert, count in zip(experts, counts, strict=True):
            begin, end = end, end + count
            self._add(name, expert, rows[begin:end])

    def entries(self) -> dict[str, MomentsEntry]:
        """Return the totals, by the name of the input; no copies."""
        return {name: MomentsEntry(self.moments[name], self.counts[name].astype(np.float32)) for name in self.moments}

    def first_not_finite(self) -> str | None:
        """Return a name whose moments are not finite, or None."""
        return next((name for name, sums in self.moments.items() if not np.isfinite(sums).all()), None)

    def _add(self, name: str, matrix: int, rows: Rows) -> None:
        n_matrices, n_columns = self.n_matrices[name], rows.shape[1]
        if name not in self.moments:
            self.moments[name] = np.zeros((n_matrices, n_columns, n_columns), np.float32)
            self.counts[name] = np.zeros(n_matrices)
        with np.errstate(over="ignore", invalid="ignore"):  # `first_not_finite` finds it
            self.moments[name][matrix] += rows.T @ rows
        self.counts[name][matrix] += len(rows)


def are_routers(names: Iterable[str]) -> bool:
    """Tell whether all are routers: those stay in 16 bit, and what they see is the common input of the experts."""
    return all(".ffn_gate_inp" in name for name in names)
