"""Choose the factor of each channel so that what quantization loses behind it is small (AWQ).

    s = h^(a/2) / m^b,  normalised      h: mean of squares of the channel's input; m: mean magnitude of its weights

a and b are tried over a grid; the loss of each is measured on sampled rows with the search that quantizes (a rough
one), weighed by activations: sum of h/s^2 * (w*s - stored)^2. AWQ (Lin et al., arXiv 2306.00978; AutoAWQ) ties b to
1 - a, rounds to nearest in the loop, and needs a forward pass. Pure functions on arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.codecs.int4_search import search_groups

F32 = NDArray[np.float32]

MAX_FACTOR = np.float32(32.0)
LEAST_GAIN = 0.04
"""Share of the loss that a choice must save; below, nothing is scaled, and the norm and the router keep their bits."""

_EXPONENTS = tuple((a / 10, b) for a in range(11) for b in (0.0, 0.5) if (a, b) != (0, 0.0))
_SMALL = np.float32(1e-30)


@dataclass(frozen=True, slots=True)
class SampledRows:
    """Rows of a matrix behind the channels, and how much an error of each column counts, comparable among matrices."""

    weights: F32  # (n_rows, n_columns)
    importance: F32  # (n_columns,)


@dataclass(frozen=True, slots=True)
class ChannelChoice:
    """The factors, f32 (n_channels,), and the share of the loss without them that is left (1: none were worth it)."""

    factors: F32
    remaining_loss: float


def choose_factors(
    samples: Sequence[SampledRows],
    group_size: int,
    n_channels: int,
    *,
    spread: Callable[[F32], F32] = lambda factors: factors,
    gathered: Callable[[F32], F32] = lambda columns: columns,
    rounded: Callable[[F32], F32] = lambda factors: factors,
) -> ChannelChoice:
    """Return the factors with the smallest loss over the samples.

    Args:
        samples: rows of every matrix behind the channels.
        group_size: of the quantization.
        n_channels: number of factors.
        spread: from factors to columns.
        gathered: from columns to channels.
        rounded: the nearest factors that can be had, of any.
    """
    nothing = np.ones(n_channels, np.float32)
    before = _loss(samples, group_size, nothing, spread)
    best = ChannelChoice(nothing, 1.0)
    for candidate in _candidates(samples, gathered):
        factors = rounded(candidate)
        share = _loss(samples, group_size, factors, spread) / before if before > 0 else 1.0
        if share < min(best.remaining_loss, 1 - LEAST_GAIN):
            best = ChannelChoice(factors, share)
    return best


def norm_rounding(norm: F32, round_stored: Callable[[F32], F32]) -> Callable[[F32], F32]:
    """Return a function from factors to those that a norm can be divided by: norm / s has to be stored in 16 bits.

    With the factors it returns, norm / s is exact, and so is the compensation behind it but for f32.

    Args:
        norm: f32 (n_channels,).
        round_stored: from f32 to the values of the norm's type, as f32.
    """

    def rounded(factors: F32) -> F32:
        stored = round_stored(norm / factors)
        is_usable = (stored != 0) & np.isfinite(stored)
        return np.where(is_usable, norm / np.where(is_usable, stored, np.float32(1)), np.float32(1))

    return rounded


def _candidates(samples: Sequence[SampledRows], gathered: Callable[[F32], F32]) -> Iterator[F32]:
    n_rows = sum(len(sample.weights) for sample in samples)
    energy, magnitudes = np.zeros_like(samples[0].importance), np.zeros_like(samples[0].importance)
    for sample in samples:
        energy += sample.importance
        magnitudes += np.abs(sample.weights).sum(axis=0) / np.float32(n_rows)
    h, m = np.log(np.maximum(gathered(energy), _SMALL)), np.log(np.maximum(gathered(magnitudes), _SMALL))
    for a, b in _EXPONENTS:
        exponents = np.float32(a / 2) * h - np.float32(b) * m
        factors = np.exp(exponents - exponents.mean())
        yield np.clip(factors, 1 / MAX_FACTOR, MAX_FACTOR).astype(np.float32)


def _loss(samples: Sequence[SampledRows], group_size: int, factors: F32, spread: Callable[[F32], F32]) -> float:
    columns = spread(factors)
    loss = 0.0
    for sample in samples:
        importance: F32 = sample.importance / (columns * columns)
        level = np.maximum(importance.mean(), _SMALL)  # what is searched with is about 1
        importance /= level
        found = search_groups(sample.weights * columns, importance, group_size, rough=True)
        loss += float(level) * float(found.losses.sum(dtype=np.float64))
    return loss
