"""How far a batch is, how long it will take, and what it did in the end. Counts only: no files, no clock of its own.

The time that is left is told from tokens, not lines: what is left of the input, in bytes, has as many prompt tokens a
byte as what was read so far; an answer is as long as those before it were on average; tokens come as fast as so far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qwenctl.errors import BatchFailed, BatchStopped, QwenctlError
from qwenctl.services.batch_job import BatchJob, TokenCounts

_REPORT_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class BatchProgress:
    """How far a batch is."""

    n_finished: int  # of the input's lines, earlier runs included
    n_total: int
    n_errors: int  # of this run
    n_generated_tokens: int
    tokens_per_s: float
    seconds_left: float | None  # None: nothing is finished yet


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """What a run did."""

    n_done: int
    n_errors: int
    n_skipped: int  # answered by an earlier run
    n_skipped_errors: int  # of those, error records
    n_prompt_tokens: int
    n_generated_tokens: int
    seconds: float
    n_cached_tokens: int = 0  # of the prompts', taken from a KV cache
    n_retries: int = 0  # attempts beyond the first of each line
    n_left: int = 0  # lines that were not begun, because of the limit of tokens
    n_total_tokens: int = 0  # that count against the limit: earlier runs' and failed attempts' included
    max_total_tokens: int | None = None

    def failure(self, out_path: Path) -> QwenctlError | None:
        """Return the error to end with when the output holds error records, or not all lines."""
        n_errors = self.n_errors + self.n_skipped_errors
        n_answered = self.n_done + self.n_errors + self.n_skipped
        if self.n_left:
            stop = f"stopped at {self.n_total_tokens:,} of {self.max_total_tokens or 0:,} tokens"
            hint = "the same command with a larger --max-total-tokens goes on"
            if not self.n_total_tokens:
                hint = "not even one line is sure to fit: --max-tokens N says how long an answer may be"
            return BatchStopped(f"{stop}: {out_path} answers {n_answered} of {n_answered + self.n_left} lines", hint)
        if not n_errors:
            return None
        message = f"{n_errors} of {n_answered} lines ended in an error record in {out_path}"
        return BatchFailed(message, "correct these lines, or run again with --retry-errors")


@dataclass(slots=True)
class BatchTally:
    """All that is counted while a batch runs.

    Args:
        n_lines: of the input that are not passed yet, blank ones included.
        n_bytes: of the lines that are not begun yet.
        n_answered_bytes: of those that earlier runs answered.
    """

    n_lines: int
    n_bytes: int
    n_answered_bytes: int = 0
    n_passed: int = 0
    n_done: int = 0
    n_errors: int = 0
    n_skipped: int = 0
    n_retries: int = 0
    n_prompt_tokens: int = 0
    n_cached_tokens: int = 0
    n_generated_tokens: int = 0  # by all attempts, those under way included
    _n_final_bytes: int = 0  # of lines that were answered in this run, and the tokens of their last attempts
    _n_final_prompt_tokens: int = 0
    _n_final_generated_tokens: int = 0
    _under_way: dict[int, int] = field(default_factory=dict)  # number of a line → tokens generated so far

    def skip(self, n_bytes: int) -> None:
        """A line was answered by an earlier run."""
        self.n_skipped += 1
        self.n_answered_bytes -= n_bytes

    def generate(self, job: BatchJob, n_tokens: int) -> None:
        """A line got so many more tokens."""
        self._under_way[job.line_number] = self._under_way.get(job.line_number, 0) + n_tokens
        self.n_generated_tokens += n_tokens

    def end_attempt(self, job: BatchJob, tokens: TokenCounts) -> None:
        """An attempt is over; `tokens` are all of its."""
        self.n_generated_tokens += tokens.n_generated - self._under_way.pop(job.line_number, 0)
        self.n_prompt_tokens += tokens.n_prompt
        self.n_cached_tokens += tokens.n_cached

    def answer(self, job: BatchJob, tokens: TokenCounts) -> None:
        """A line is answered, after `end_attempt`."""
        self.n_done += 1
        self._n_final_bytes += job.n_line_bytes
        self._n_final_prompt_tokens += tokens.n_prompt
        self._n_final_generated_tokens += tokens.n_generated

    def progress(self, seconds: float) -> BatchProgress:
        """Return how far it is after so many seconds."""
        n_now = self.n_done + self.n_errors
        return BatchProgress(
            n_finished=n_now + self.n_skipped,
            n_total=self.n_passed + self.n_lines,
            n_errors=self.n_errors,
            n_generated_tokens=self.n_generated_tokens,
            tokens_per_s=self.n_generated_tokens / max(seconds, 1e-9),
            seconds_left=self._seconds_left(max(seconds, 1e-9)) if self.n_done else None,
        )

    def _seconds_left(self, seconds: float) -> float:
        mean = self._n_final_generated_tokens / self.n_done
        n_bytes_left = max(0, self.n_bytes - self.n_answered_bytes)
        n_prompt_left = n_bytes_left * self._n_final_prompt_tokens / max(1, self._n_final_bytes)
        computed_share = 1 - self.n_cached_tokens / max(1, self.n_prompt_tokens)
        n_lines_left = n_bytes_left * self.n_done / max(1, self._n_final_bytes)
        n_under_way_left = sum(max(0.0, mean - n_tokens) for n_tokens in self._under_way.values())
        n_left = n_prompt_left * computed_share + n_lines_left * mean + n_under_way_left
        n_computed = self.n_prompt_tokens - self.n_cached_tokens + self.n_generated_tokens
        return n_left * seconds / max(1, n_computed)


class ProgressTeller:
    """Tells a listener now and then.

    Args:
        tally: what is told.
        on_progress: the listener.
        clock: seconds.
    """

    def __init__(
        self, tally: BatchTally, on_progress: Callable[[BatchProgress], None] | None, clock: Callable[[], float]
    ) -> None:
        self._tally, self._on_progress, self._clock = tally, on_progress, clock
        self._started_s = self._told_s = clock()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._started_s

    def tell(self, *, always: bool = False) -> None:
        """Tell, unless that was done a moment ago."""
        now_s = self._clock()
        if self._on_progress is None or (now_s - self._told_s < _REPORT_EVERY_S and not always):
            return
        self._told_s = now_s
        self._on_progress(self._tally.progress(self.seconds))
