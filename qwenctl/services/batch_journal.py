"""Records that are finished but not in order yet, in a file beside the output: what a kill must not cost.

Append-only until all of them are in the output; then it is emptied. A torn end, which a kill leaves, is cut off. Knows
records by their bytes and what batch_record.py reads in them; whose turn it is, is batch_order.py's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from qwenctl.errors import InvalidRequest
from qwenctl.services.batch_record import EarlierRecord, decode_record, is_torn_record

_EMPTIED_FROM_BYTES = 1 << 20  # emptying waits for the output to reach the disk: not for every few records


class Span(NamedTuple):
    """Where a record is in the journal."""

    offset: int
    n_bytes: int


class BatchJournal:
    """The opened journal of an output file. Whoever opens it holds the output's lock.

    Raises:
        InvalidRequest: it cannot be opened, or holds what is no record of ours; nothing is changed then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise InvalidRequest(f"cannot write {path}: {error.strerror}") from error
        self._n_bytes = 0
        try:
            for span, _ in self.records():
                self._n_bytes = span.offset + span.n_bytes
            os.ftruncate(self._fd, self._n_bytes)
        except BaseException:
            os.close(self._fd)
            raise

    @staticmethod
    def path_of(output: Path) -> Path:
        """Return the journal's name for an output file."""
        return output.with_name(f"{output.name}.pending")

    def records(self) -> Iterator[tuple[Span, EarlierRecord]]:
        """Read all whole records, those that are in the output by now included.

        Raises:
            InvalidRequest: a line is none of ours.
        """
        offset = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                record = decode_record(line) if line.endswith(b"\n") else None
                if record is None:
                    if not line.endswith(b"\n") and is_torn_record(line):
                        return
                    raise InvalidRequest(f"line {number} of {self.path} is no result of a batch", "move it away")
                yield Span(offset, len(line)), record
                offset += len(line)

    def append(self, record: bytes) -> Span:
        """Write a record to the end.

        Raises:
            OSError: the disk is full or failed; the journal holds whole records still.
        """
        span = Span(self._n_bytes, len(record))
        try:
            n_written = 0
            while n_written < len(record):
                n_written += os.write(self._fd, record[n_written:])
        except OSError:
            os.ftruncate(self._fd, self._n_bytes)
            raise
        self._n_bytes += len(record)
        return span

    def read(self, span: Span) -> bytes:
        """Return a record's bytes."""
        return os.pread(self._fd, span.n_bytes, span.offset)

    @property
    def is_worth_emptying(self) -> bool:
        """Whether it has grown so large that emptying is worth a sync of the output."""
        return self._n_bytes >= _EMPTIED_FROM_BYTES

    def empty(self) -> None:
        """Forget all records: they are in the output, and the output is on the disk."""
        os.ftruncate(self._fd, 0)
        self._n_bytes = 0

    def close(self) -> None:
        """Close it; an empty one is removed."""
        os.close(self._fd)
        if not self._n_bytes:
            self.path.unlink(missing_ok=True)
