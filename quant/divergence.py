"""How far one model's predictions lie from another's: Kullback-Leibler divergence and agreement on the top token.

The measures are those of llama-perplexity (llama.cpp tools/perplexity/README.md, "KL divergence"): for each position,
KLD = sum over the vocabulary of p_ref * (log p_ref - log p). Pure functions on arrays; knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Divergence:
    """KLD statistics in nats over `n_tokens` positions."""

    n_tokens: int
    mean: float
    median: float
    percentile_99: float
    maximum: float
    same_top: float  # share of positions with the same most likely token


def log_softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    """Return log-probabilities, f64, of `logits` (n_tokens, n_vocab)."""
    shifted: npt.NDArray[np.float64] = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def token_divergence(reference: FloatArray, other: FloatArray) -> npt.NDArray[np.float64]:
    """Return the KLD of each position, f64 (n_tokens,), in nats.

    Both arguments are logits or log-probabilities, (n_tokens, n_vocab): they are normalised here, which also takes out
    what rounding a stored reference did to its sum.

    Raises:
        ValueError: the shapes differ.
    """
    if reference.shape != other.shape:
        raise ValueError(f"cannot compare predictions of shape {reference.shape} with {other.shape}")
    log_p, log_q = log_softmax(reference), log_softmax(other)
    divergence: npt.NDArray[np.float64] = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    return divergence


def same_top_token(reference: FloatArray, other: FloatArray) -> npt.NDArray[np.bool_]:
    """Tell for each position whether both predict the same token as the most likely one."""
    same: npt.NDArray[np.bool_] = reference.argmax(axis=-1) == other.argmax(axis=-1)
    return same


def summarize(pairs: Iterable[tuple[FloatArray, FloatArray]]) -> Divergence:
    """Return the statistics over (reference, other) blocks of positions, one block in memory at a time."""
    divergences, agreements = [], []
    for reference, other in pairs:
        divergences.append(token_divergence(reference, other))
        agreements.append(same_top_token(reference, other))
    values, same = np.concatenate(divergences), np.concatenate(agreements)
    return Divergence(
        n_tokens=len(values),
        mean=float(values.mean()),
        median=float(np.median(values)),
        percentile_99=float(np.percentile(values, 99)),
        maximum=float(values.max()),
        same_top=float(same.mean()),
    )
