"""The worker that sends lines to a server: a thread for each line under way; patience with a server in trouble.

A busy or silent server is left alone for a while, longer each time, and its lines go to others meanwhile. After enough
such rounds without a single answer it is given up.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from qwenctl.errors import GenerationFailed
from qwenctl.services.batch_job import (
    Answered,
    BatchJob,
    BatchWorker,
    Lost,
    Outcome,
    Refused,
    Returned,
    Stumbled,
    TokenCounts,
)
from qwenctl.services.batch_mailbox import Mailbox
from qwenctl.services.batch_options import BatchOptions
from qwenctl.services.batch_server import BatchServer, NotAnswered, NotReached
from qwenctl.services.batch_server_body import most_tokens, server_body
from qwenctl.services.batch_verdict import Busy, GoodAnswer, LineFault, Trouble, Useless, Verdict, judge
from qwenctl.services.batch_work import schema_faults
from qwenctl.services.hub.backoff import RetryPolicy

PATIENCE = RetryPolicy(n_attempts=8, first_s=0.5, most_s=15.0, most_asked_s=600.0)  # about a minute


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A server, the model that it is asked for, and how many lines it is sent at once."""

    server: BatchServer
    model: str
    parallel: int
    identity: str  # of the model

    def worker(self, options: BatchOptions, mailbox: Mailbox) -> BatchWorker:
        """Return the worker that sends lines there."""
        return RemoteWorker(self, options, mailbox)


@dataclass(frozen=True, slots=True)
class _Task:
    job: BatchJob
    body: bytes
    begun_s: float


class RemoteWorker(BatchWorker):
    """Answers with what a server answers.

    Args:
        served: the server.
        options: of the batch.
        mailbox: where news go.
        patience: with a server in trouble.
        clock: seconds.
    """

    def __init__(
        self,
        served: ServedModel,
        options: BatchOptions,
        mailbox: Mailbox,
        patience: RetryPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = served.server.name
        self._served, self._options, self._mailbox = served, options, mailbox
        self._patience, self._clock = patience or PATIENCE, clock
        self._chance = random.Random()  # noqa: S311
        self._bodies: dict[int, bytes] = {}  # prepared, by number of line
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._n_threads = self._n_running = 0
        self._n_failures = 0  # rounds of trouble in a row
        self._paused_until_s = self._paused_at_s = float("-inf")
        self._is_lost = self._is_stopped = False

    @property
    def n_wanted(self) -> int:
        """Places that are free, none while the server is left alone; one at first after that."""
        if self._is_lost or self._clock() < self._paused_until_s:
            return 0
        return (1 if self._n_failures else self._served.parallel) - self._n_running

    def prepare(self, job: BatchJob) -> int:
        """Write the body."""
        body = server_body(job, self._served.model, self._options.chat, self._options.system)
        self._bodies[job.line_number] = json.dumps(body).encode()
        return most_tokens(job, body)

    def start(self, job: BatchJob) -> None:
        """Leave it to a thread."""
        self._n_running += 1
        if self._n_threads < self._n_running:
            self._n_threads += 1
            threading.Thread(target=self._run, name=f"qwenctl-batch-{self._n_threads}", daemon=True).start()
        self._tasks.put(_Task(job, self._bodies.pop(job.line_number), self._clock()))

    def digest(self, item: Any) -> Sequence[Outcome]:
        """Take a verdict."""
        task, verdict = item
        self._n_running -= 1
        job: BatchJob = task.job
        match verdict:
            case GoodAnswer(body):
                self._n_failures = 0
                return [self._answered(job, body)]
            case LineFault(code, message):
                self._n_failures = 0
                return [Refused(job, code, message)]
            case Useless(message):
                return [Returned(job), *self._lose(message)]
            case Busy(message, asked_s):
                return [Returned(job), *self._leave_alone(task, message, asked_s)]
            case Trouble(message, reached):
                fate = Stumbled(job, "server_failed", f"{self.name}: {message}") if reached else Returned(job)
                return [fate, *self._leave_alone(task, message, None)]
        raise AssertionError(verdict)

    def stop(self) -> None:
        """Let the threads end, each after what it waits for; nobody waits for them."""
        self._is_stopped = True
        for _ in range(self._n_threads):
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None and not self._is_stopped:
            self._mailbox.put(self, (task, self._ask(task)))

    def _ask(self, task: _Task) -> Verdict:
        url = task.job.request.url
        try:
            return judge(self._served.server.ask(url, task.body), url, time.time())
        except NotReached as error:
            return Trouble(str(error), reached=False)
        except NotAnswered as error:
            return Trouble(str(error))
        except Exception as error:  # a bug, or an answer that nobody foresaw: the line must not be lost
            return Trouble(f"{type(error).__name__}: {error}")

    def _answered(self, job: BatchJob, body: dict[str, Any]) -> Outcome:
        tokens = _tokens(body)
        faults = schema_faults(job.request, self._options.chat, body)
        if faults:
            return Stumbled(job, "invalid_answer", faults[0], tokens, body)
        return Answered(job, body, tokens, {"server": self.name})

    def _leave_alone(self, task: _Task, message: str, asked_s: float | None) -> list[Outcome]:
        """Pause; requests that were under way when the trouble was noticed are part of the same trouble."""
        if self._is_lost or task.begun_s < self._paused_at_s:
            return []
        self._n_failures += 1
        delay_s = self._patience.delay_s(self._n_failures, asked_s, self._chance)
        if delay_s is None:
            return self._lose(message)
        self._paused_at_s = self._clock()
        self._paused_until_s = self._paused_at_s + delay_s
        return []

    def _lose(self, message: str) -> list[Outcome]:
        if self._is_lost:
            return []
        self._is_lost = True
        return [Lost(GenerationFailed(f"{self.name}: {message}", "the same command goes on once it answers again"))]


def _tokens(body: dict[str, Any]) -> TokenCounts:
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    numbers = [usage.get("prompt_tokens"), cached, usage.get("completion_tokens")]
    return TokenCounts(*(number if isinstance(number, int) and number >= 0 else 0 for number in numbers))
