"""Chunks through models: the loops of an evaluation, as its plan says. Knows no options and no figures.

at once     for each chunk: the reference, then every model; the reference's logits are compared where llama.cpp
            left them
in turns    for each round of chunks: the reference, whose predictions are stored; then every model
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quant.perplexity import Chunks, first_scored, n_scored
from quant.predictions import Predictions
from quant.stored_predictions import StoredPredictions
from qwenctl.errors import GenerationFailed
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.evaluation_models import ModelDesk
from qwenctl.services.evaluation_plan import EvaluationPlan
from qwenctl.services.evaluation_scores import NotFiniteError, Rows, RowWorkers, Scores
from qwenctl.services.logits import LogitsBlock, LogitsModel


@dataclass(frozen=True, slots=True)
class Subject:
    """A model to be evaluated, and where its scores go."""

    path: Path
    offload: OffloadOptions
    scores: Scores


class EvaluationProgress(NamedTuple):
    """How far an evaluation is, in chunks times models."""

    path: Path  # of the model that was computed last
    n_done: int
    n_total: int
    mean_surprise: float  # of that model so far, nats
    mean_divergence: float  # 0 without a reference


OnProgress = Callable[[EvaluationProgress], None]


class EvaluationRun:
    """One pass of `chunks` through models.

    Args:
        chunks: the text.
        plan: made for these chunks and models.
        desk: opens models.
        workers: take scores from logits.
        on_progress: is told after every chunk.
    """

    def __init__(
        self, chunks: Chunks, plan: EvaluationPlan, desk: ModelDesk, workers: RowWorkers, on_progress: OnProgress
    ) -> None:
        self._chunks = chunks
        self._inputs = chunks.inputs()
        self._plan = plan
        self._desk = desk
        self._workers = workers
        self._on_progress = on_progress
        self._first = first_scored(chunks.n_ctx)
        self._n_scored = n_scored(chunks.n_ctx)
        self._n_done = self._n_total = 0

    def score(self, subject: Subject) -> None:
        """Score a model by itself.

        Raises:
            GenerationFailed: llama.cpp failed, or gave NaN.
        """
        self._n_total = self._chunks.n_chunks
        for rows in self._rows_of(subject, 0, self._chunks.n_chunks):
            self._score(subject, rows)

    def compare(self, subjects: Sequence[Subject], reference: Subject, n_vocab: int) -> None:
        """Score models and a reference, and the models against it.

        Raises:
            GenerationFailed: llama.cpp failed, or gave NaN.
        """
        self._n_total = self._chunks.n_chunks * (1 + len(subjects))
        if self._plan.keeps_all:
            self._compare_at_once(subjects, reference)
        else:
            self._compare_in_turns(subjects, reference, n_vocab)

    def _compare_at_once(self, subjects: Sequence[Subject], reference: Subject) -> None:
        everyone = (reference, *subjects)
        models = [self._desk.open(one.path, one.offload) for one in everyone]
        for group in self._groups(0, self._chunks.n_chunks):
            computed = [model.compute(self._inputs[group.start : group.stop], self._first) for model in models]
            for blocks in zip(*computed, strict=True):
                base: list[Predictions] | None = None
                for subject, block in zip(everyone, blocks, strict=True):
                    if (rows := self._rows(block, group.start)) is None:
                        continue
                    predictions = self._score(subject, rows, base)
                    base = predictions if base is None else base
            self._tell(everyone[-1], len(group) * len(everyone))

    def _compare_in_turns(self, subjects: Sequence[Subject], reference: Subject, n_vocab: int) -> None:
        n_chunks, n_round = self._chunks.n_chunks, self._plan.n_round_chunks
        # Before a model is opened: what is left for offloaded experts is counted then.
        stored = StoredPredictions(n_round * self._n_scored, n_vocab)
        room = np.zeros((min(self._plan.n_rows, self._n_scored), n_vocab), np.float32)
        for start in range(0, n_chunks, n_round):
            end, first = min(n_chunks, start + n_round), start * self._n_scored
            for rows in self._rows_of(reference, start, end):
                self._workers.store(self._score(reference, rows), stored, rows.first - first)
            for subject in subjects:
                for rows in self._rows_of(subject, start, end):
                    base = self._workers.expand(stored, rows.first - first, room[: len(rows.logits)])
                    self._score(subject, rows, base)

    def _rows_of(self, subject: Subject, start: int, end: int) -> Iterator[Rows]:
        """Yield the rows of chunks `start` … `end - 1` of a model, which is opened first."""
        model: LogitsModel = self._desk.open(subject.path, subject.offload)
        for group in self._groups(start, end):
            for block in model.compute(self._inputs[group.start : group.stop], self._first):
                if (rows := self._rows(block, group.start)) is not None:
                    yield rows
            self._tell(subject, len(group))

    def _groups(self, start: int, end: int) -> Iterator[range]:
        """Yield the chunks that are computed at once."""
        for first in range(start, end, self._plan.n_sequences):
            yield range(first, min(end, first + self._plan.n_sequences))

    def _rows(self, block: LogitsBlock, first_chunk: int) -> Rows | None:
        """Return what is scored of a block: not the last position of a chunk, which has nothing to predict."""
        chunk, offset = first_chunk + block.sequence, block.first - self._first
        targets = self._chunks.targets(chunk)[offset : offset + len(block.logits)]
        if not len(targets):
            return None
        return Rows(block.logits[: len(targets)], targets, chunk * self._n_scored + offset)

    def _score(self, subject: Subject, rows: Rows, base: Sequence[Predictions] | None = None) -> list[Predictions]:
        try:
            return self._workers.score(rows, subject.scores, base)
        except NotFiniteError as error:
            chunk, offset = divmod(rows.first + error.row, self._n_scored)
            where = f"at token {self._first + offset} of chunk {chunk + 1}"
            raise GenerationFailed(
                f"{subject.path}: NaN or infinity among the logits {where}",
                "run `qwenctl verify` on it; a type that is too coarse for the model can do this, too",
            ) from None

    def _tell(self, subject: Subject, n_more: int) -> None:
        self._n_done += n_more
        scores = subject.scores
        self._on_progress(
            EvaluationProgress(subject.path, self._n_done, self._n_total, scores.mean_surprise, scores.mean_divergence)
        )
