"""What is kept of each scored position, and the threads that take it from logits. Knows no models and no text.

Of a position remain three numbers: how much the token that followed was a surprise, the divergence from the reference,
and whether both found the same token most likely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from quant.divergence import divergence_of
from quant.predictions import Predictions, predict
from quant.stored_predictions import StoredPredictions

T = TypeVar("T")


class NotFiniteError(Exception):
    """NaN or infinity among the logits of a row."""

    def __init__(self, row: int) -> None:
        super().__init__(f"row {row}")
        self.row = row


class Scores:
    """The numbers of `n_tokens` positions of one model."""

    def __init__(self, n_tokens: int) -> None:
        self.surprise = np.zeros(n_tokens, np.float32)  # -ln p of the token that followed
        self.divergence = np.zeros(n_tokens, np.float32)  # nats; without a reference 0
        self.same_top = np.zeros(n_tokens, np.bool_)
        self.n_done = 0
        self._sums = [0.0, 0.0]

    @property
    def mean_surprise(self) -> float:
        """So far."""
        return self._sums[0] / max(1, self.n_done)

    @property
    def mean_divergence(self) -> float:
        """So far."""
        return self._sums[1] / max(1, self.n_done)

    def count(self, first: int, end: int) -> None:
        """Positions `first` … `end - 1` have been written."""
        self.n_done += end - first
        self._sums[0] += float(self.surprise[first:end].sum(dtype=np.float64))
        self._sums[1] += float(self.divergence[first:end].sum(dtype=np.float64))


class Rows(NamedTuple):
    """Logits of a run of positions of one chunk, and where their scores go."""

    logits: npt.NDArray[np.float32]  # (n_rows, n_vocab)
    targets: npt.NDArray[np.int32]  # (n_rows,): the tokens that followed
    first: int  # index of the first row among all scored positions


class RowWorkers:
    """Threads that share the rows of a block; the same rows fall to the same part each time. Use it in a `with`."""

    def __init__(self, n_threads: int) -> None:
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="scores")
        self._n_threads = n_threads

    def score(self, rows: Rows, scores: Scores, reference: Sequence[Predictions] | None = None) -> list[Predictions]:
        """Write the rows' scores; return their predictions in parts, which hold `rows.logits` in views.

        Args:
            rows: of one model.
            scores: that model's.
            reference: what this returned for the reference and the same rows.

        Raises:
            NotFiniteError: NaN or infinity among the logits.
        """

        def work(index: int, part: slice) -> Predictions:
            predictions = predict(rows.logits[part])
            if (bad := predictions.first_not_finite) is not None:
                raise NotFiniteError(part.start + bad)
            place = slice(rows.first + part.start, rows.first + part.stop)
            scores.surprise[place] = predictions.surprise(rows.targets[part])
            if reference is not None:
                scores.divergence[place] = divergence_of(reference[index], predictions)
                scores.same_top[place] = reference[index].top == predictions.top
            return predictions

        found = self._share(work, len(rows.logits))
        scores.count(rows.first, rows.first + len(rows.logits))
        return found

    def store(self, predictions: Sequence[Predictions], stored: StoredPredictions, first: int) -> None:
        """Keep what `score` returned as positions `first` and following of `stored`."""

        def work(index: int, part: slice) -> None:
            stored.store(first + part.start, predictions[index])

        self._share(work, sum(len(one.logits) for one in predictions))

    def expand(self, stored: StoredPredictions, first: int, room: npt.NDArray[np.float32]) -> list[Predictions]:
        """Return the predictions of as many positions as `room` has rows, as `score` did; they are written there."""
        return self._share(lambda _index, part: stored.expand(first + part.start, room[part]), len(room))

    def _share(self, work: Callable[[int, slice], T], n_rows: int) -> list[T]:
        size = -(-n_rows // self._n_threads)
        parts = [slice(start, min(n_rows, start + size)) for start in range(0, n_rows, size)]
        return list(self._pool.map(work, range(len(parts)), parts))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
