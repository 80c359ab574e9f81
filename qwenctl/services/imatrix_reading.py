"""The reading itself: chunk after chunk, then text of the model's own, with a save every half minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from quant.errors import ResumeRefused
from qwenctl.services.activation_model import ActivationModel
from qwenctl.services.activation_totals import ActivationTotals
from qwenctl.services.calibration_text import CalibrationText, shipped_text
from qwenctl.services.calibration_tokens import Chunk, with_begin
from qwenctl.services.imatrix_state import Progress, RunState, StateFile
from qwenctl.services.imatrix_top_up import write_round

SAVE_EVERY_S = 30.0
_MOST_SAVING_SHARE = 0.05  # of the time


@dataclass(frozen=True, slots=True)
class ReadProgress:
    """How far it is: `n_done` of `n_total` tokens of a stage, "reading" or "writing" text."""

    stage: str
    n_done: int
    n_total: int
    n_thin: int = 0  # experts that still lack tokens


OnProgress = Callable[[ReadProgress], None]


class ImatrixReading:
    """A model at work, what it has added up, and how far it is. `on_progress` may raise to break off.

    Args:
        model: opened.
        totals: to which its probe adds.
        state_file: locked.
        identity: of the run.
    """

    def __init__(
        self, model: ActivationModel, totals: ActivationTotals, state_file: StateFile, identity: Mapping[str, str]
    ) -> None:
        self.progress = Progress()
        self._model, self._totals = model, totals
        self._state_file, self._identity = state_file, identity
        self._saved_s, self._saving_s = time.monotonic(), 0.0

    def resume(self, *, restart: bool) -> None:
        """Go on with an earlier run's sums, if there are any.

        Raises:
            ResumeRefused: it was another run's, or is damaged.
        """
        if not self._state_file.exists or restart:
            return
        state = self._state_file.load(self._identity)
        try:
            self._totals.restore(state.arrays)
        except KeyError as error:
            raise ResumeRefused(f"{self._state_file.path}: {error} is missing", "--restart discards it") from error
        self.progress = state.progress

    def read_text(self, chunks: Sequence[Chunk], on_progress: OnProgress) -> None:
        """Read the chunks that are not read yet.

        Raises:
            GenerationFailed, WriteFailed: what was saved before is still there.
        """
        n_total = sum(len(chunk) for chunk in chunks)
        on_progress(ReadProgress("reading", self.progress.n_tokens, n_total))
        while self.progress.n_chunks < len(chunks):
            batch = chunks[self.progress.n_chunks :][: self._model.n_sequences]
            self._model.read(batch)
            n_chunks = self.progress.n_chunks + len(batch)
            n_tokens = self.progress.n_tokens + sum(len(chunk) for chunk in batch)
            self.progress = replace(self.progress, n_chunks=n_chunks, n_tokens=n_tokens)
            self._save_now_and_then()
            on_progress(ReadProgress("reading", n_tokens, n_total))

    def top_up(self, n_wanted: int, budget_tokens: int, on_progress: OnProgress) -> None:
        """Let the model write and read its own text until every expert has `n_wanted` tokens, or has spent its budget.

        Raises:
            GenerationFailed, WriteFailed: as `read_text`.
        """
        text = shipped_text() if n_wanted else CalibrationText((), ())
        while (n_thin := self._totals.n_thin_experts(n_wanted)) and self.progress.n_written_tokens < budget_tokens:
            n_written = self.progress.n_written_tokens
            on_progress(ReadProgress("writing", n_written, budget_tokens, n_thin))
            texts = write_round(self._model, text, self.progress.n_rounds)
            tokens = [token for one in texts for token in one][: budget_tokens - n_written]
            for batch in self._batches(tokens):
                self._model.read(batch)
            n_rounds = self.progress.n_rounds + 1
            self.progress = replace(self.progress, n_rounds=n_rounds, n_written_tokens=n_written + len(tokens))
            self._save_now_and_then()

    def _batches(self, tokens: Sequence[int]) -> list[list[Chunk]]:
        step, n = self._model.chunk_tokens, self._model.n_sequences
        starts = range(0, len(tokens), step)
        chunks = [with_begin(tokens[start : start + step], self._model.vocabulary.begin_token) for start in starts]
        return [chunks[start : start + n] for start in range(0, len(chunks), n)]

    def _save_now_and_then(self) -> None:
        """Save, if the last time is long enough ago that saving takes little of the time."""
        began_s = time.monotonic()
        if began_s - self._saved_s < max(SAVE_EVERY_S, self._saving_s / _MOST_SAVING_SHARE):
            return
        self._state_file.save(RunState(self._identity, self.progress, self._totals.arrays()))
        self._saved_s = time.monotonic()
        self._saving_s = self._saved_s - began_s
