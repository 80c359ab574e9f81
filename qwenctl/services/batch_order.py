"""In which order records get into the output: as they are finished, or as their lines stand in the input.

In the input's order, a record whose turn has not come is kept in the journal: it is safe from a kill as soon as it is
finished, and the output is append-only all the same. How far finished work may run ahead is bounded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Literal

from qwenctl.services.batch_journal import Span
from qwenctl.services.batch_output import BatchOutput

Order = Literal["finished", "input"]

_MOST_AHEAD = 100_000  # records in the journal: some 10 MB of memory


class RecordOrder(ABC):
    """Takes records in any order and gives them to the output in the right one."""

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """Whether further lines may be begun."""

    @abstractmethod
    def expect(self, number: int) -> None:
        """Say that input line `number` will get a record. Called in the order of the lines."""

    @abstractmethod
    def put(self, number: int, record: bytes) -> None:
        """Take the record of line `number`, which was expected. Raises what the output raises."""

    @abstractmethod
    def put_kept(self, number: int, span: Span) -> None:
        """Take the record of line `number` that an earlier run left in the journal."""


class FinishedOrder(RecordOrder):
    """Every record at once."""

    def __init__(self, output: BatchOutput) -> None:
        self._output = output

    @property
    def has_room(self) -> bool:
        """Always: nothing waits."""
        return True

    def expect(self, number: int) -> None:
        """Nothing depends on it."""

    def put(self, number: int, record: bytes) -> None:  # noqa: ARG002
        """Append the record."""
        self._output.append(record)

    def put_kept(self, number: int, span: Span) -> None:  # noqa: ARG002
        """The output has moved what was in the journal when it was opened."""
        raise AssertionError("there is no journal")


class InputOrder(RecordOrder):
    """A record when all lines before its own have theirs."""

    def __init__(self, output: BatchOutput) -> None:
        self._output = output
        self._expected: deque[int] = deque()
        self._waiting: dict[int, Span] = {}

    @property
    def has_room(self) -> bool:
        """Whether the journal holds less than it may."""
        return len(self._waiting) < _MOST_AHEAD

    def expect(self, number: int) -> None:
        """Queue the line."""
        self._expected.append(number)

    def put(self, number: int, record: bytes) -> None:
        """Append the record and those that waited for it; or keep it in the journal."""
        if self._expected[0] != number:
            self._waiting[number] = self._output.keep(record)
            return
        self._expected.popleft()
        self._output.append(record)
        self._append_waiting()

    def put_kept(self, number: int, span: Span) -> None:
        """Append it when its turn comes."""
        self._waiting[number] = span
        self._append_waiting()

    def _append_waiting(self) -> None:
        while self._expected and (span := self._waiting.pop(self._expected[0], None)) is not None:
            self._expected.popleft()
            self._output.append(self._output.read_kept(span))
        if not self._waiting:
            self._output.nothing_is_kept()


def record_order(order: Order, output: BatchOutput) -> RecordOrder:
    """Return the order that goes by this name."""
    return InputOrder(output) if order == "input" else FinishedOrder(output)
