"""Round a matrix to 4 bits so that the errors of its columns make up for each other (GPTQ).

With H = X^T X over the tokens of a text, the squared error of a row's products is e H e^T, e the row's errors. H is
factored into (I + M) D (I + M)^T, M strictly upper triangular, D diagonal; then

    e H e^T = sum over columns k of D[k] * (what is wanted of k - stored)^2,   wanted of k = w[k] + sum_j<k e[j] M[j, k]

so rounding column after column, each to the nearest of what is wanted, keeps every term small. That is GPTQ (Frantar et
al., arXiv 2210.17323) without inverting H, as shown for LDLQ in QuIP (Chee et al., arXiv 2307.13304).

Groups keep their columns, so loaders need no g_idx; but the most important group goes first, and within a group the
most important column: what cannot be made up for any more should count least. Scales of a group are searched when its
turn comes, for what is wanted then, weighed by D. Knows nothing of models or files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.codecs.int4_search import Int4Groups, compensate, search_groups

F32 = NDArray[np.float32]

DAMPING = 0.01
"""Share of the mean diagonal added to it, as in GPTQ."""

COLUMNS_A_TOKEN = 8
"""With a token for so many columns, what is seen between columns counts half. Few tokens tell little of how columns go
together, and a matrix rounded for what they happened to do loses on every other text."""


@dataclass(frozen=True, slots=True)
class Factor:
    """H, factored, in the order of rounding."""

    order: NDArray[np.intp]  # (n,) columns; those of a group stay together
    mix: F32  # (n, n): M
    importance: F32  # (n,): D, with a mean diagonal of H of 1


def factorize(moments: F32, n_tokens: float, group_size: int) -> Factor | None:
    """Return the factor of H; None: there is nothing to learn from it.

    Args:
        moments: f32 (n, n), the sum of x x^T.
        n_tokens: how many tokens it was summed over.
        group_size: divides n.
    """
    n_columns = len(moments)
    level = float(np.trace(moments, dtype=np.float64)) / n_columns
    if n_tokens <= 0 or not level > 0:
        return None
    trust = n_tokens / (n_tokens + n_columns / COLUMNS_A_TOKEN)
    order = rounding_order(np.diagonal(moments), group_size)
    # Reversed, so that Cholesky's lower triangle becomes the upper one that is wanted.
    backwards = order[::-1]
    h = moments[np.ix_(backwards, backwards)].astype(np.float64) * (trust / level)
    diagonal = np.einsum("ii->i", h)
    diagonal /= trust
    diagonal += DAMPING
    lower = np.linalg.cholesky(h)
    roots = np.diagonal(lower).copy()
    lower /= roots
    mix = lower[::-1, ::-1].astype(np.float32)
    importance = (roots[::-1] ** 2).astype(np.float32)
    return Factor(order, mix, importance)


def rounding_order(importance: F32, group_size: int) -> NDArray[np.intp]:
    """Return columns by falling importance, groups first; equal ones in their own order."""
    groups = importance.reshape(-1, group_size)
    by_group = np.argsort(-groups.mean(axis=1), kind="stable")
    within = np.argsort(-groups, axis=1, kind="stable")
    ordered: NDArray[np.intp] = (by_group[:, None] * group_size + within[by_group]).reshape(-1)
    return ordered


def round_compensated(
    weights: F32, factor: Factor, group_size: int, *, factors: F32 | None = None, symmetric: bool = False
) -> Int4Groups:
    """Return the rows of `weights`, rounded.

    Args:
        weights: f32 (n_rows, n_columns), as the tokens met them.
        factor: of their input.
        group_size: as it was factored for.
        factors: f32 (n_columns,); what is stored is weights * factors, for inputs that are divided by them.
        symmetric: all zeros are 8.
    """
    n_rows, n_columns = weights.shape
    ordered = weights[:, factor.order]
    scale_of = np.ones(n_columns, np.float32) if factors is None else factors[factor.order]
    errors = np.empty_like(ordered)  # of the weights as the tokens met them
    codes = np.empty((n_rows, n_columns), np.uint8)
    n_groups = n_columns // group_size
    scales, losses = np.empty((n_rows, n_groups), np.float32), np.empty((n_rows, n_groups), np.float32)
    zeros = np.empty((n_rows, n_groups), np.uint8)
    for first in range(0, n_columns, group_size):
        block = slice(first, first + group_size)
        by = scale_of[block]
        wanted = ordered[:, block] + errors[:, :first] @ factor.mix[:first, block]
        importance = factor.importance[block] / (by * by)
        level = importance.mean()
        found = search_groups(wanted * by, importance / level, group_size, symmetric=symmetric)
        mix = factor.mix[block, block] * (by[None, :] / by[:, None])
        at = factor.order[first] // group_size
        scales[:, at], zeros[:, at], losses[:, at] = found.scales[:, 0], found.zeros[:, 0], found.losses[:, 0] * level
        rounded, scaled_errors = compensate(ordered[:, block] * by, wanted * by, mix, scales[:, at], zeros[:, at])
        codes[:, factor.order[block]] = rounded
        errors[:, block] = scaled_errors / by
    return Int4Groups(scales, zeros, losses, codes)
