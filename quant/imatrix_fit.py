"""Hold an importance matrix against the tensors of a model: refuse another model's, name what it knows nothing about.

llama.cpp reports a wrong size only for the tensors it happens to look up and takes the rest for unweighted in silence;
here a mismatch is an error and a gap has a name. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from quant.errors import ImatrixMismatch
from quant.imatrix import Imatrix, ImatrixEntry
from quant.shown import named

_LAYER = re.compile(r"blk\.(\d+)\.")
_NEVER_MEASURED = ("token_embd.weight", "output.weight")
"""Embeddings are looked up, not multiplied; llama-imatrix leaves the output out unless asked."""

_HINT = "gather one with `qwenctl imatrix` from this model"


@dataclass(frozen=True, slots=True)
class ImatrixFit:
    """An importance matrix that fits, and what it lacks.

    `imatrix` has each entry divided into the matrices of its tensor (see `check_fits`). `without_statistics` are
    weights that would be quantized unweighted: those of MTP layers, which llama.cpp never runs, are among them.
    `never_routed` has, by tensor, the experts that no token reached: they count as unweighted, too.
    """

    imatrix: Imatrix
    without_statistics: tuple[str, ...]
    never_routed: tuple[tuple[str, tuple[int, ...]], ...]


def check_fits(imatrix: Imatrix, shapes: Mapping[str, tuple[int, ...]]) -> ImatrixFit:
    """Return what the importance matrix has and lacks for a model of these tensors.

    Statistics in one piece for stacked experts (files of the older format) are divided among the experts.

    Args:
        imatrix: finite and not negative, as its constructor demands.
        shapes: by GGUF name, in numpy order: (rows, columns) or (n_experts, rows, columns). Tensors of one dimension
            are not multiplied and may be among them.

    Raises:
        ImatrixMismatch: columns or experts differ, it speaks of layers that the model lacks, or of none of its tensors.
    """
    weights = {name: shape for name, shape in shapes.items() if len(shape) >= 2}
    entries = {}
    for name, entry in imatrix.entries.items():
        entries[name] = _fitted(name, entry, weights[name]) if name in weights else entry
    _refuse_strangers(imatrix, shapes)
    lacking = [name for name in weights if name not in entries and name not in _NEVER_MEASURED]
    never = [(name, entries[name].never_routed()) for name in weights if name in entries]
    return ImatrixFit(
        imatrix=replace(imatrix, entries=entries),
        without_statistics=tuple(lacking),
        never_routed=tuple((name, experts) for name, experts in never if experts),
    )


def _fitted(name: str, entry: ImatrixEntry, shape: tuple[int, ...]) -> ImatrixEntry:
    n_matrices, n_columns = prod(shape[:-2]), shape[-1]
    if (entry.n_matrices, entry.n_columns) == (n_matrices, n_columns):
        return entry
    if entry.n_matrices == 1 and entry.n_columns == n_matrices * n_columns:
        counts = np.repeat(entry.counts, n_matrices)
        return ImatrixEntry(entry.sums.reshape(n_matrices, n_columns), counts)
    raise ImatrixMismatch(
        f"imatrix of another model: {named(name)} has statistics of {entry.n_matrices} x {entry.n_columns} columns, "
        f"the model {n_matrices} x {n_columns}",
        _HINT,
    )


def _refuse_strangers(imatrix: Imatrix, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Layers beyond the model's last show that the statistics are of a deeper one, whatever its widths."""
    if not any(name in shapes for name in imatrix.entries):
        first = min(imatrix.entries, default="nothing")
        raise ImatrixMismatch(
            f"imatrix of another model: none of its tensors is in this one, {named(first)} is not", _HINT
        )
    deepest = max((_layer(name) for name in shapes), default=-1)
    for name in imatrix.entries:
        if _layer(name) > deepest:
            raise ImatrixMismatch(
                f"imatrix of another model: it has {named(name)}, the model ends at layer {deepest}", _HINT
            )


def _layer(name: str) -> int:
    match = _LAYER.match(name)
    return int(match[1]) if match else -1
