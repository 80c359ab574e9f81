"""Sums of squares of what weights are multiplied with, by column and expert, and the tokens that they are of.

    one input of several weights (q, k and v; gate and up) is summed once, under the name of the first of them

Float64, so that a million tokens lose nothing. Pure arithmetic on arrays; knows nothing of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from quant.imatrix import ImatrixEntry

Rows = npt.NDArray[np.float32]


class ActivationSink(Protocol):
    """Gets every input, once a micro-batch."""

    def add_rows(self, name: str, rows: Rows) -> None:
        """Take the input of a dense weight, f32 (n_tokens, n_columns)."""

    def add_routed(self, name: str, n_experts: int, x: Rows, routed: npt.NDArray[np.int32]) -> None:
        """Take the input of stacked experts, f32 (n_tokens, n_columns), and where it goes, i32 (n_tokens, n_used)."""

    def add_grouped(self, name: str, n_experts: int, experts: Sequence[int], counts: Sequence[int], rows: Rows) -> None:
        """Take inputs that differ by expert, f32 (pairs, n_columns): `counts[i]` of them are those of `experts[i]`."""


class ActivationSums:
    """Totals so far. An `ActivationSink`."""

    def __init__(self) -> None:
        self.sums: dict[str, npt.NDArray[np.float64]] = {}  # (n_matrices, n_columns)
        self.counts: dict[str, npt.NDArray[np.float64]] = {}  # (n_matrices,)

    def add_rows(self, name: str, rows: Rows) -> None:
        """See `ActivationSink`."""
        sums, counts = self._entry(name, 1, rows.shape[1])
        sums[0] += squares_of(rows).sum(axis=0, dtype=np.float64)
        counts[0] += len(rows)

    def add_routed(self, name: str, n_experts: int, x: Rows, routed: npt.NDArray[np.int32]) -> None:
        """See `ActivationSink`.

        Not a product with the table of who goes where: BLAS would wake threads that compete with ggml's, which wait for
        the next node in a loop (half the speed on two busy cores).
        """
        sums, counts = self._entry(name, n_experts, x.shape[1])
        squares = squares_of(x)
        order = np.argsort(routed, axis=None, kind="stable") // routed.shape[1]
        ends = np.cumsum(np.bincount(routed.ravel(), minlength=n_experts))
        for expert, tokens in enumerate(np.split(order, ends[:-1])):
            if len(tokens):
                sums[expert] += squares[tokens].sum(axis=0, dtype=np.float64)
                counts[expert] += len(tokens)

    def add_grouped(self, name: str, n_experts: int, experts: Sequence[int], counts: Sequence[int], rows: Rows) -> None:
        """See `ActivationSink`."""
        sums, totals = self._entry(name, n_experts, rows.shape[1])
        squares = squares_of(rows)
        end = 0
        for expert, count in zip(experts, counts, strict=True):
            begin, end = end, end + count
            sums[expert] += squares[begin:end].sum(axis=0, dtype=np.float64)  # eight times as quick as reduceat
            totals[expert] += count

    def first_not_finite(self) -> str | None:
        """Return a name whose sums are not finite, or None."""
        return next((name for name, sums in self.sums.items() if not np.isfinite(sums).all()), None)

    def entries(self, members: Mapping[str, Iterable[str]]) -> dict[str, ImatrixEntry]:
        """Return the statistics of every weight.

        Args:
            members: the weights that share the input summed under a name, that name among them.
        """
        found = {}
        for name, sums in self.sums.items():
            entry = ImatrixEntry(sums.astype(np.float32), self.counts[name].astype(np.float32))
            found.update(dict.fromkeys(members.get(name, (name,)), entry))
        return found

    def _entry(self, name: str, n_matrices: int, n_columns: int) -> tuple[npt.NDArray[np.float64], ...]:
        if name not in self.sums:
            self.sums[name] = np.zeros((n_matrices, n_columns))
            self.counts[name] = np.zeros(n_matrices)
        return self.sums[name], self.counts[name]


def squares_of(rows: Rows) -> Rows:
    """Return the squares; one that is beyond float32 is infinite, and `first_not_finite` finds it."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.square(rows)


def group_by_expert(rows: Rows, routed: npt.NDArray[np.int32]) -> tuple[list[int], list[int], Rows]:
    """Sort inputs by their experts, those of one in the order of their tokens.

    Args:
        rows: f32 (n_tokens, n_used, n_columns).
        routed: i32 (n_tokens, n_used).

    Returns:
        Experts, rows of each, and f32 (n_tokens × n_used, n_columns).
    """
    flat = routed.ravel()
    order = np.argsort(flat, kind="stable")
    counts = np.bincount(flat)
    experts = np.flatnonzero(counts)
    return experts.tolist(), counts[experts].tolist(), rows.reshape(flat.size, -1)[order]
