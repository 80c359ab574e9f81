"""Look through all lines of a batch before anything is generated: which cannot be answered, how many tokens, how long.

What takes a model is asked of the model that is opened; for servers, lines are checked as far as that goes without one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from qwenctl.errors import InvalidRequest
from qwenctl.services.batch_input import BatchInput
from qwenctl.services.batch_job import BatchJob, LineRefused
from qwenctl.services.batch_local import LinePreparer
from qwenctl.services.batch_names import LineNames
from qwenctl.services.batch_options import BatchOptions
from qwenctl.services.batch_output import BatchOutput
from qwenctl.services.batch_record import RecordKey
from qwenctl.services.batch_request import BadLine
from qwenctl.services.batch_resume import check_earlier_results, settings_digest
from qwenctl.services.fingerprint_table import FingerprintTable
from qwenctl.services.generation import ChatModel

_LINES_AHEAD = 64
MOST_NAMED = 20  # bad lines


@dataclass(frozen=True, slots=True)
class LineProblem:
    """A line that cannot be answered."""

    line: int
    custom_id: str
    message: str


@dataclass(frozen=True, slots=True)
class BatchCheck:
    """What was found."""

    n_lines: int
    n_answered: int  # by the output, error records included
    n_bad: int  # of the others
    by_url: Mapping[str, int]  # of those that can be answered and are not
    n_prompt_tokens: int | None  # of these; None: no model was opened
    longest_prompt: int | None
    n_most_generated_tokens: int | None  # if every answer is as long as it may be
    n_usual_generated_tokens: int | None  # if answers are as long as those that the output has; None: it has none
    problems: tuple[LineProblem, ...]  # the first of the bad lines

    def failure(self) -> InvalidRequest | None:
        """Return the error to end with when there are bad lines."""
        if not self.n_bad:
            return None
        return InvalidRequest(f"{self.n_bad} of {self.n_lines} lines cannot be answered", "correct them, or run anyway")

    def seconds(self, prompt_tokens_per_s: float, generated_tokens_per_s: float) -> float | None:
        """Return how long it takes at these rates, at most where the usual length of answers is not known."""
        n_generated = self.n_most_generated_tokens
        if self.n_usual_generated_tokens is not None:
            n_generated = self.n_usual_generated_tokens
        if self.n_prompt_tokens is None or n_generated is None:
            return None
        return self.n_prompt_tokens / prompt_tokens_per_s + n_generated / generated_tokens_per_s


def check_batch(
    model: ChatModel | None,
    in_path: Path,
    out_path: Path,
    options: BatchOptions,
    served: Sequence[str] = (),
    *,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> BatchCheck:
    """Return what a run would meet. Nothing is generated, and no file is made.

    Args:
        model: that is to answer; None: servers are.
        in_path: the lines.
        out_path: where records of earlier runs are, if there are any.
        options: of the run.
        served: identities of the servers' models.
        on_progress: is told lines and all lines, now and then.

    Raises:
        InvalidRequest: files that are unreadable, or do not belong together.
    """
    lines, settings = BatchInput(in_path), settings_digest(model.engine.info if model else None, served, options)
    answered, n_usual = FingerprintTable(), None
    if out_path.exists() and not options.restart:
        with BatchOutput(out_path, restart=False, retry_errors=False) as output:
            check_earlier_results(lines, output, settings)
            answered, n_usual = output.answered, output.usual_answer_tokens
    checker = _Checker(LinePreparer(model, options) if model else None, n_usual)
    total = lines.count()
    jobs = _jobs(lines, answered, settings, checker)
    while group := list(islice(jobs, _LINES_AHEAD)):
        checker.take(group)
        on_progress(checker.n_lines, total)
    return checker.result()


class _Checker:
    """Counts."""

    def __init__(self, preparer: LinePreparer | None, usual_answer_tokens: float | None) -> None:
        self._preparer, self._usual = preparer, usual_answer_tokens
        self.n_lines = self.n_answered = 0
        self._n_bad = self._n_prompt = self._n_most = self._longest = self._n_replies = 0
        self._by_url: Counter[str] = Counter()
        self._problems: list[LineProblem] = []

    def refuse(self, problem: LineProblem) -> None:
        """Count a line that cannot be answered."""
        self._n_bad += 1
        if len(self._problems) < MOST_NAMED:
            self._problems.append(problem)

    def take(self, jobs: list[BatchJob]) -> None:
        """Look at lines that make sense by themselves."""
        if self._preparer:
            self._preparer.look_ahead(jobs)
        for job in jobs:
            try:
                self._measure(job)
            except LineRefused as refusal:
                self.refuse(LineProblem(job.line_number, job.key.custom_id, refusal.message))
            else:
                self._by_url[job.request.url] += 1

    def _measure(self, job: BatchJob) -> None:
        if self._preparer is None:
            return
        work = self._preparer.work(job)
        self._n_prompt += work.n_prompt_tokens
        self._longest = max(self._longest, work.longest_prompt)
        self._n_most += work.n_most_tokens - work.n_prompt_tokens
        self._n_replies += work.n_replies

    def result(self) -> BatchCheck:
        """Return all."""
        has_model = self._preparer is not None
        usual = None if self._usual is None else min(self._n_most, round(self._usual * self._n_replies))
        return BatchCheck(
            n_lines=self.n_lines,
            n_answered=self.n_answered,
            n_bad=self._n_bad,
            by_url=dict(self._by_url),
            n_prompt_tokens=self._n_prompt if has_model else None,
            longest_prompt=self._longest if has_model else None,
            n_most_generated_tokens=self._n_most if has_model else None,
            n_usual_generated_tokens=usual if has_model else None,
            problems=tuple(self._problems),
        )


def _jobs(lines: BatchInput, answered: FingerprintTable, settings: str, checker: _Checker) -> Iterator[BatchJob]:
    """The lines that are to be answered; bad ones are reported, answered ones counted."""
    names = LineNames()
    for line in lines.lines():
        checker.n_lines += 1
        request, name = names.read(line)
        if name in answered:
            checker.n_answered += 1
        elif isinstance(request, BadLine):
            checker.refuse(LineProblem(line.number, request.custom_id, request.message))
        else:
            key = RecordKey(request.custom_id, request.sha256, settings)
            yield BatchJob(line.number, line.n_bytes, key, request)
