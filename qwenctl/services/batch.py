"""Answer a file of requests with many sequences at once, and go on where an earlier run stopped.

    check      the output's records against the input: what is answered, what was edited since     batch_resume.py
    hand out   lines → jobs, to the workers that have room: the model opened here, servers         batch_local.py,
                                                                                                   batch_remote.py
    settle     what became of them → records, appended as they finish or in the input's order      batch_order.py

A line that cannot be answered gets an error record and the run goes on. Knows no command line; exit codes are its
caller's, who can ask the summary for the error to end with.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from qwenctl.errors import GenerationFailed, InvalidRequest, QwenctlError
from qwenctl.services.batch_budget import TokenBudget
from qwenctl.services.batch_input import BatchInput, InputLine
from qwenctl.services.batch_job import (
    Answered,
    BatchJob,
    BatchWorker,
    Generated,
    LineRefused,
    Lost,
    Outcome,
    Refused,
    Returned,
    Stumbled,
)
from qwenctl.services.batch_local import LocalWorker
from qwenctl.services.batch_mailbox import Mailbox
from qwenctl.services.batch_names import LineNames
from qwenctl.services.batch_options import BatchOptions
from qwenctl.services.batch_order import record_order
from qwenctl.services.batch_output import BatchOutput
from qwenctl.services.batch_progress import BatchProgress, BatchSummary, BatchTally, ProgressTeller
from qwenctl.services.batch_record import RecordKey, answer_record, encode_record, error_record
from qwenctl.services.batch_request import BadLine
from qwenctl.services.batch_resume import check_earlier_results, settings_digest
from qwenctl.services.batch_window import LineWindow
from qwenctl.services.generation import ChatModel

__all__ = ["BatchOptions", "BatchProgress", "BatchSummary", "run_batch"]

_LOOK_EVERY_S = 0.1  # at the clock and for an interruption, when nothing happens


class WorkerElsewhere(Protocol):
    """A server with a model. batch_remote.py has them and is imported for them only: urllib3 asks for a socket then."""

    @property
    def identity(self) -> str:
        """The same for the same model."""

    def worker(self, options: BatchOptions, mailbox: Mailbox) -> BatchWorker:
        """Return who sends lines there."""


def run_batch(
    model: ChatModel | None,
    in_path: Path,
    out_path: Path,
    options: BatchOptions | None = None,
    on_progress: Callable[[BatchProgress], None] | None = None,
    *,
    servers: Sequence[WorkerElsewhere] = (),
    clock: Callable[[], float] = time.monotonic,
) -> BatchSummary:
    """Answer every line of `in_path` that `out_path` does not answer yet, appending to it.

    Args:
        model: opened here; None: servers do it alone.
        in_path: lines as batch_request.py describes them.
        out_path: file of records; made if missing.
        options: how.
        on_progress: is told now and then how far it is; may raise what is to end the run.
        servers: that get lines too.
        clock: seconds.

    Raises:
        InvalidRequest: the files are the same, unreadable, or do not belong together; nothing is generated then.
        QwenctlError: the output could not be written, or the engine failed as a whole. What is finished is kept.
    """
    options = options or BatchOptions()
    lines = BatchInput(in_path)
    if out_path.exists() and out_path.samefile(in_path):
        raise InvalidRequest(f"{in_path} cannot be input and output at once")
    with BatchOutput(
        out_path,
        restart=options.restart,
        retry_errors=options.retry_errors,
        in_order=options.order == "input",
        clock=clock,
    ) as output:
        served = [one.identity for one in servers]
        settings = settings_digest(model.engine.info if model else None, served, options)
        tally = BatchTally(lines.count(), lines.n_bytes, check_earlier_results(lines, output, settings))
        teller = ProgressTeller(tally, on_progress, clock)
        mailbox = Mailbox()
        workers: list[BatchWorker] = [one.worker(options, mailbox) for one in servers]
        if model:
            workers.append(LocalWorker(model, options, mailbox, is_alone=not servers))
        run = _Run(workers, mailbox, output, options=options, settings=settings, tally=tally, teller=teller)
        return run.run(lines)


class _Run:
    """One run, from the first line to the last record."""

    def __init__(
        self,
        workers: Sequence[BatchWorker],
        mailbox: Mailbox,
        output: BatchOutput,
        *,
        options: BatchOptions,
        settings: str,
        tally: BatchTally,
        teller: ProgressTeller,
    ) -> None:
        self._workers = workers
        self._mailbox = mailbox
        self._output = output
        self._order = record_order(options.order, output)
        self._options = options
        self._settings = settings
        self._tally, self._teller = tally, teller
        self._budget = TokenBudget(options.max_total_tokens, output.n_spent_tokens)
        self._names = LineNames()
        self._again: deque[BatchJob] = deque()  # to be handed out before further lines
        self._n_out = 0  # jobs that workers have
        self._n_left = 0  # lines passed after the limit
        self._lost: dict[str, QwenctlError] = {}  # workers by name
        self._at_limit = False

    def run(self, lines: BatchInput) -> BatchSummary:
        """Do it all."""
        waiting, tally = self._jobs(lines), self._tally
        window = LineWindow(waiting, self._tell_workers)
        try:
            self._teller.tell(always=True)
            while self._hand_out(window):
                for worker, item in self._mailbox.take_all(_LOOK_EVERY_S):
                    for outcome in worker.digest(item):
                        self._settle(worker, outcome)
                self._teller.tell()
        finally:
            for worker in self._workers:
                worker.stop()
        self._teller.tell(always=True)
        return BatchSummary(
            n_done=tally.n_done,
            n_errors=tally.n_errors,
            n_skipped=tally.n_skipped,
            n_skipped_errors=self._output.n_answered_errors,
            n_prompt_tokens=tally.n_prompt_tokens,
            n_generated_tokens=tally.n_generated_tokens,
            seconds=self._teller.seconds,
            n_cached_tokens=tally.n_cached_tokens,
            n_retries=tally.n_retries,
            n_left=self._count_left(waiting) + len(window) if self._at_limit else 0,
            n_total_tokens=self._budget.n_spent,
            max_total_tokens=self._budget.limit,
        )

    # --- handing out -------------------------------------------------------------------------------------------------

    def _hand_out(self, window: LineWindow) -> bool:
        """Give jobs to the workers that want some; return whether there is anything to wait for."""
        while not self._at_limit and any(worker.n_wanted > 0 for worker in self._workers):
            job = self._next_job(window)
            if job is None:
                break
            if not self._begin(job):
                self._again.appendleft(job)
                self._at_limit = not self._n_out
                break
            self._teller.tell()
        if self._n_out:
            return True
        is_over = self._at_limit or (window.is_over and not self._again)
        if not is_over and len(self._lost) == len(self._workers):
            raise self._nobody_left()
        return not is_over

    def _next_job(self, window: LineWindow) -> BatchJob | None:
        if self._again:
            return self._again.popleft()
        return window.take(may_read=self._order.has_room)

    def _tell_workers(self, jobs: Sequence[BatchJob]) -> None:
        for worker in self._workers:
            worker.look_ahead(jobs)

    def _begin(self, job: BatchJob) -> bool:
        """Start `job` at the worker with the most room, rather not where it failed. False: it takes too many tokens."""
        free = [worker for worker in self._workers if worker.n_wanted > 0]
        worker = max(free, key=lambda one: (one.name != job.failed_at, one.n_wanted))
        try:
            n_most = worker.prepare(job)
        except LineRefused as refusal:
            self._fail(job, refusal.code, refusal.message)
            return True
        if not self._budget.reserve(job.line_number, n_most):
            return False
        if not job.is_begun:
            self._tally.n_bytes -= job.n_line_bytes
            job.is_begun = True
        self._n_out += 1
        worker.start(job)
        return True

    def _jobs(self, lines: BatchInput) -> Iterator[BatchJob]:
        """The lines that are to be answered; those that are, or cannot be, are dealt with as they are passed."""
        tally, answered, last_number, n_bytes = self._tally, self._output.answered, 0, 0
        for line in lines.lines():
            tally.n_lines -= line.number - last_number
            tally.n_passed += 1
            last_number = line.number
            n_bytes += line.n_bytes
            if self._at_limit:
                self._n_left += self._names.read(line).name not in answered
            elif (job := self._pass(line)) is not None:
                yield job
            else:
                tally.n_bytes -= line.n_bytes
                self._teller.tell()
        tally.n_lines = 0
        tally.n_bytes -= lines.n_bytes - n_bytes  # of blank lines

    def _pass(self, line: InputLine) -> BatchJob | None:
        request, name = self._names.read(line)
        if name in self._output.answered:
            self._tally.skip(line.n_bytes)
            if (span := self._output.kept.get(name)) is not None:
                self._order.expect(line.number)
                self._order.put_kept(line.number, span)
            return None
        self._order.expect(line.number)
        key = RecordKey(request.custom_id, request.sha256, self._settings)
        if isinstance(request, BadLine):
            self._put_error(line.number, key, request.code, request.message, {})
            return None
        return BatchJob(line.number, line.n_bytes, key, request)

    def _count_left(self, waiting: Iterator[BatchJob]) -> int:
        """Return the number of lines without a record, when no more are begun."""
        for _ in waiting:
            raise AssertionError("a line was begun beyond the limit")
        return len(self._again) + self._n_left

    # --- settling ----------------------------------------------------------------------------------------------------

    def _settle(self, worker: BatchWorker, outcome: Outcome) -> None:
        match outcome:
            case Generated(job, n_tokens):
                self._tally.generate(job, n_tokens)
            case Answered():
                self._answer(outcome)
            case Refused(job, code, message):
                self._end_attempt(job, Stumbled(job, code, message))
                self._fail(job, code, message)
            case Stumbled(job):
                job.failed_at = worker.name
                self._end_attempt(job, outcome)
                self._try_again(outcome)
            case Returned(job):
                self._end_attempt(job, Stumbled(job, "", ""))
                self._again.append(job)
            case Lost(error):
                self._lost[worker.name] = error

    def _end_attempt(self, job: BatchJob, ended: Stumbled | Answered) -> None:
        self._n_out -= 1
        job.n_spent_tokens += ended.tokens.n_spent
        self._budget.settle(job.line_number, ended.tokens.n_spent)
        self._tally.end_attempt(job, ended.tokens)

    def _answer(self, answered: Answered) -> None:
        job = answered.job
        self._end_attempt(job, answered)
        ours = {**answered.ours, **_attempts(job, job.n_attempts + 1)}
        self._order.put(job.line_number, encode_record(answer_record(job.key, answered.body, ours)))
        self._tally.answer(job, answered.tokens)

    def _try_again(self, stumbled: Stumbled) -> None:
        job = stumbled.job
        job.n_attempts += 1
        job.last_answer = stumbled.answer or job.last_answer
        if job.n_attempts > self._options.n_retries:
            self._fail(job, stumbled.code, stumbled.message)
            return
        self._tally.n_retries += 1
        self._again.append(job)

    def _fail(self, job: BatchJob, code: str, message: str) -> None:
        last = {} if job.last_answer is None else {"last_answer": job.last_answer}
        self._put_error(job.line_number, job.key, code, message, {**_attempts(job, job.n_attempts), **last})

    def _put_error(self, line_number: int, key: RecordKey, code: str, message: str, ours: Mapping[str, Any]) -> None:
        record = error_record(key, code=code, message=message, line=line_number, ours=ours)
        self._order.put(line_number, encode_record(record))
        self._tally.n_errors += 1

    def _nobody_left(self) -> QwenctlError:
        if len(self._lost) == 1:
            return next(iter(self._lost.values()))
        reasons = "; ".join(f"{name}: {error.message}" for name, error in self._lost.items())
        hint = "what is finished is kept: the same command goes on with the rest"
        return GenerationFailed(f"nobody is left to answer: {reasons}", hint)


def _attempts(job: BatchJob, n_attempts: int) -> dict[str, Any]:
    """What a record says of attempts beyond the first: their number, and the tokens of all."""
    return {"attempts": n_attempts, "spent_tokens": job.n_spent_tokens} if job.n_attempts else {}
