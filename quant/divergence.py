"""How far one model's predictions lie from another's: Kullback-Leibler divergence and agreement on the top token.

The measures are those of llama-perplexity (llama.cpp tools/perplexity/README.md, "KL divergence"): for each position,
KLD = sum over the vocabulary of p_ref * (ln p_ref - ln p). It leaves tokens out that the reference gives less than
e^-16; here all of them count. Pure functions on arrays; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quant.estimates import mean_of
from quant.predictions import Float64s, Predictions, predict

FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Divergence:
    """KLD statistics in nats over `n_tokens` positions; errors are standard errors of the means."""

    n_tokens: int
    mean: float
    mean_error: float
    median: float
    percentile_99: float
    percentile_99_9: float
    maximum: float
    same_top: float  # share of positions with the same most likely token
    same_top_error: float

    @classmethod
    def of(cls, values: FloatArray, same: BoolArray) -> Divergence:
        """Return the statistics of each position's KLD and of whether the most likely tokens are the same.

        Percentiles lie between two values, in proportion, where none is exact (as in llama-perplexity).

        Raises:
            ValueError: no positions.
        """
        mean, agreement = mean_of(values), mean_of(same)
        median, percentile_99, percentile_99_9 = np.percentile(values, (50, 99, 99.9))
        return cls(
            n_tokens=len(values),
            mean=mean.value,
            mean_error=mean.error,
            median=float(median),
            percentile_99=float(percentile_99),
            percentile_99_9=float(percentile_99_9),
            maximum=float(values.max()),
            same_top=agreement.value,
            same_top_error=agreement.error,
        )


def divergence_of(reference: Predictions, other: Predictions) -> Float64s:
    """Return the KLD of each position, f64 (n_tokens,), in nats.

    With a and b the logits less their peaks, and A and B the sums: KLD = sum of e^a (a - b) / A - ln A + ln B. Equal
    logits give exactly 0; elsewhere rounding can make a value as small as -1e-7.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.logits.shape != other.logits.shape:
        raise ValueError(f"cannot compare predictions of shape {reference.logits.shape} with {other.logits.shape}")
    weighted = np.empty(len(reference.logits), np.float64)
    shares, work = np.empty((2, reference.logits.shape[-1]), np.float32)
    with np.errstate(invalid="ignore"):
        for index, (ours, theirs) in enumerate(zip(reference.logits, other.logits, strict=True)):
            np.subtract(ours, reference.peaks[index], out=shares)
            np.subtract(theirs, other.peaks[index], out=work)
            np.subtract(shares, work, out=work)
            np.exp(shares, out=shares)
            np.multiply(work, shares, out=work)
            weighted[index] = work.sum(dtype=np.float64)
        divergence: Float64s = weighted / reference.sums - np.log(reference.sums) + np.log(other.sums)
    return divergence


def token_divergence(reference: FloatArray, other: FloatArray) -> Float64s:
    """Return the KLD of each position, f64 (n_tokens,), in nats.

    Both arguments are logits or log-probabilities, (n_tokens, n_vocab): they are normalised here, which also takes out
    what rounding a stored reference did to its sum.

    Raises:
        ValueError: the shapes differ.
    """
    return divergence_of(predict(reference), predict(other))


def summarize(pairs: Iterable[tuple[FloatArray, FloatArray]]) -> Divergence:
    """Return the statistics over (reference, other) blocks of positions, one block in memory at a time."""
    divergences, agreements = [], []
    for reference, other in pairs:
        ours, theirs = predict(reference), predict(other)
        divergences.append(divergence_of(ours, theirs))
        agreements.append(ours.top == theirs.top)
    return Divergence.of(np.concatenate(divergences), np.concatenate(agreements))
