"""A model's logits for some positions, with what makes probabilities of them. Pure; knows no models and no text.

    p(token) = exp(logit - peak) / sum        peak: the largest logit; sum: of exp(logit - peak) over the vocabulary

A row of 151,936 logits fits into the cache of a core, a block of rows does not: every pass over a row is made before
the next row begins, in f32, and sums are taken in f64. Two models' predictions and their divergence cost 6 ns a logit
on one core of the machine this was written on, where passes over whole blocks in f64 took 33.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32s = npt.NDArray[np.float32]
Float64s = npt.NDArray[np.float64]
Indexes = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model says of `n_tokens` positions. Made by `predict`, or by `StoredPredictions.expand`.

    Raises:
        ValueError: the arrays are not of the same number of positions.
    """

    logits: Float32s  # (n_tokens, n_vocab); as large as it is, a view where that will do
    peaks: Float32s  # (n_tokens,)
    sums: Float64s  # (n_tokens,)
    top: Indexes  # (n_tokens,): the most likely token, the first of several

    def __post_init__(self) -> None:
        if not len(self.logits) == len(self.peaks) == len(self.sums) == len(self.top):
            raise ValueError(f"{len(self.logits)} rows of logits with {len(self.sums)} sums")

    @property
    def first_not_finite(self) -> int | None:
        """The first position whose logits hold NaN or infinity; None: there is none."""
        bad = np.flatnonzero(~np.isfinite(self.sums))
        return int(bad[0]) if len(bad) else None

    def surprise(self, targets: Indexes) -> Float64s:
        """Return -ln p of `targets`, (n_tokens,): the token that does follow at each position."""
        chosen = self.logits[np.arange(len(self.logits)), targets].astype(np.float64)
        surprise: Float64s = np.log(self.sums) + self.peaks - chosen
        return surprise


def predict(logits: npt.NDArray[np.floating]) -> Predictions:
    """Return the predictions of `logits` (n_tokens, n_vocab), or of log-probabilities, which are logits too."""
    rows = np.asarray(logits, np.float32)
    top = rows.argmax(axis=-1)
    peaks = rows[np.arange(len(rows)), top]
    sums = np.empty(len(rows), np.float64)
    work = np.empty(rows.shape[-1], np.float32)
    with np.errstate(invalid="ignore"):  # infinity minus infinity: `first_not_finite` tells
        for index, row in enumerate(rows):
            np.subtract(row, peaks[index], out=work)
            np.exp(work, out=work)
            sums[index] = work.sum(dtype=np.float64)
    return Predictions(rows, peaks, sums, top)
