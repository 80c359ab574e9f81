"""Predictions kept in two bytes a token of the vocabulary, where a whole model's are to be had later. Pure.

    code      u16: 0 for whatever lies 24 nats and more below the row's peak, 65,535 for the peak
    logit     24 / 65,535 × code - 24

Steps of 0.00037 nats add (step² / 12) / 2 = 6e-9 nats to a divergence; what is raised to the floor weighs less than
151,936 e^-24 = 6e-6 of a row, by far less in practice. llama-perplexity's files have a floor at 16 nats. The most
likely token is kept apart, since rounding makes ties.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quant.predictions import Predictions, predict

_DEPTH = 24.0  # nats
_MOST_CODE = 65535


class StoredPredictions:
    """Room for `n_tokens` positions of `n_vocab` tokens each, taken from the system at once.

    Positions are set and expanded in slices, from any number of threads as long as the slices are apart.
    """

    def __init__(self, n_tokens: int, n_vocab: int) -> None:
        self._codes = np.empty((n_tokens, n_vocab), np.uint16)
        self._codes.fill(0)  # so that it is memory now, and counts for whoever sizes things after this
        self._top = np.zeros(n_tokens, np.int64)

    @property
    def n_bytes(self) -> int:
        """Memory taken."""
        return self._codes.nbytes + self._top.nbytes

    def store(self, first: int, predictions: Predictions) -> None:
        """Keep `predictions` as those of position `first` and the following."""
        end = first + len(predictions.logits)
        self._top[first:end] = predictions.top
        work = np.empty(predictions.logits.shape[-1], np.float32)
        for codes, row, peak in zip(self._codes[first:end], predictions.logits, predictions.peaks, strict=True):
            np.subtract(row, np.float32(peak - _DEPTH), out=work)
            np.maximum(work, 0, out=work)
            np.multiply(work, np.float32(_MOST_CODE / _DEPTH), out=work)
            np.minimum(np.rint(work, out=work), _MOST_CODE, out=work)
            np.copyto(codes, work, casting="unsafe")

    def expand(self, first: int, room: npt.NDArray[np.float32]) -> Predictions:
        """Return the predictions of as many positions as `room` (n_tokens, n_vocab) has, from `first` on.

        Their logits are written to `room`, which may be used again and again: taking fresh memory takes longer.
        """
        end = first + len(room)
        for codes, row in zip(self._codes[first:end], room, strict=True):
            np.multiply(codes, np.float32(_DEPTH / _MOST_CODE), out=row)
        rounded = predict(room)
        return Predictions(room, rounded.peaks, rounded.sums, self._top[first:end])
