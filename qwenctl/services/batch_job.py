"""A line on its way to an answer, who may answer it, and what can become of it. Values and a contract; no threads.

BatchJob → worker.prepare (what it may cost) → worker.start → … mailbox … → worker.digest → Outcome
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qwenctl.errors import QwenctlError
from qwenctl.services.batch_record import RecordKey
from qwenctl.services.batch_request import BatchRequest


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens that an attempt took."""

    n_prompt: int = 0
    n_cached: int = 0  # of the prompt's
    n_generated: int = 0

    @property
    def n_spent(self) -> int:
        """What a token limit counts."""
        return self.n_prompt + self.n_generated


@dataclass(slots=True)
class BatchJob:
    """A line that is to be answered, and how that went so far."""

    line_number: int
    n_line_bytes: int
    key: RecordKey
    request: BatchRequest
    is_begun: bool = False  # a worker has had it
    n_attempts: int = 0  # that ended
    n_spent_tokens: int = 0  # by those
    last_answer: Mapping[str, Any] | None = None  # of the last attempt that had one
    failed_at: str | None = None  # name of the worker where the last attempt failed


@dataclass(frozen=True, slots=True)
class Answered:
    """The line has its answer."""

    job: BatchJob
    body: Mapping[str, Any]  # as an OpenAI server answers
    tokens: TokenCounts
    ours: Mapping[str, Any] = field(default_factory=dict)  # for the record's own member


@dataclass(frozen=True, slots=True)
class Refused:
    """The line cannot be answered, however often it is tried."""

    job: BatchJob
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Stumbled:
    """An attempt failed; another one may not."""

    job: BatchJob
    code: str
    message: str
    tokens: TokenCounts = TokenCounts()
    answer: Mapping[str, Any] | None = None  # what came, where something did


@dataclass(frozen=True, slots=True)
class Returned:
    """The worker could not begin or end the line through no fault of the line."""

    job: BatchJob


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker answers no more lines; those that it had are returned."""

    error: QwenctlError


@dataclass(frozen=True, slots=True)
class Generated:
    """So many more tokens of a line that is not finished."""

    job: BatchJob
    n_tokens: int


Outcome = Answered | Refused | Stumbled | Returned | Lost | Generated


class LineRefused(Exception):
    """A worker cannot make a request of a line."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class BatchWorker(ABC):
    """Answers lines, several at once. Its methods are called on the batch's thread only; none of them waits.

    News reach the batch through the mailbox that the worker was made with, as (worker, item).
    """

    name: str

    @property
    @abstractmethod
    def n_wanted(self) -> int:
        """How many more lines it would begin now."""

    def look_ahead(self, jobs: Sequence[BatchJob]) -> None:  # noqa: B027 - most have nothing to do
        """Do what is done sooner for several lines together; some of them may be prepared elsewhere."""

    @abstractmethod
    def prepare(self, job: BatchJob) -> int:
        """Make the line ready to start; return the most tokens that an attempt can take, prompt and answer.

        Raises:
            LineRefused: it cannot be answered.
        """

    @abstractmethod
    def start(self, job: BatchJob) -> None:
        """Begin what was prepared."""

    @abstractmethod
    def digest(self, item: Any) -> Sequence[Outcome]:
        """Return what an item of the mailbox means."""

    @abstractmethod
    def stop(self) -> None:
        """End what is under way; nothing comes of it."""
