"""The output file of a batch: append-only, locked, and after any accident again a file of whole records.

    open      lock; cut off a torn last line; learn which requests are answered
    append    one record, one write to the end of the file; synced about every second
    keep      a record whose turn has not come, into the journal beside the file (batch_journal.py)
    close     sync, unlock

A record is final. With `retry_errors` those that say an error are taken out first: the rest is written to a new file
that replaces the old one. What a journal holds counts as answered; an output that is not to be in order gets it at
once. Knows records (batch_record.py) but no requests.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from quant.durable_files import DurableFiles
from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.services.batch_journal import BatchJournal, Span
from qwenctl.services.batch_record import EarlierRecord, decode_record, is_torn_record
from qwenctl.services.fingerprint_table import FingerprintTable, fingerprint

if sys.platform != "win32":
    import fcntl

_SYNC_EVERY_S = 1.0


class BatchOutput:
    """An opened output file. `answered` maps fingerprints of custom_ids to those of request digests.

    Args:
        path: the file; made if missing.
        restart: throw away what it holds.
        retry_errors: throw away the error records that it holds.
        in_order: whether records may be kept in the journal.
        clock: seconds.

    Raises:
        InvalidRequest: it is no batch output (nothing is changed then), or another process writes it.
        QwenctlError: it cannot be opened or written.
    """

    def __init__(
        self,
        path: Path,
        *,
        restart: bool,
        retry_errors: bool,
        in_order: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.answered = FingerprintTable()
        self.kept: dict[int, Span] = {}  # fingerprint of a custom_id → where its record is in the journal
        self.n_answered_errors = self.n_spent_tokens = self._n_generated_tokens = self._n_replies = 0
        self.settings: set[str] = set()  # of the records that are there
        self._journal: BatchJournal | None = None
        self._keeps = False  # whether the journal holds what the output does not
        self._clock = clock
        self._unsynced_since: float | None = None
        self._fd = _open_locked(path)
        try:
            if restart:
                os.ftruncate(self._fd, 0)
                BatchJournal.path_of(path).unlink(missing_ok=True)
            self._learn()
            if retry_errors and self.n_answered_errors:
                self._drop_errors()
            self._open_journal(retry_errors=retry_errors, in_order=in_order)
        except OSError as error:
            self._close_files()
            raise _write_failed(path, error) from error
        except BaseException:
            self._close_files()
            raise

    @property
    def usual_answer_tokens(self) -> float | None:
        """The mean length of the answers that are there; None without any."""
        return self._n_generated_tokens / self._n_replies if self._n_replies else None

    def append(self, record: bytes) -> None:
        """Write one line to the end.

        Raises:
            QwenctlError: the disk is full or failed; the file holds whole records still.
        """
        size = os.fstat(self._fd).st_size
        try:
            n_written = os.write(self._fd, record)
            while n_written < len(record):
                n_written += os.write(self._fd, record[n_written:])
        except OSError as error:
            os.ftruncate(self._fd, size)
            raise _write_failed(self.path, error) from error
        if self._unsynced_since is None:
            self._unsynced_since = self._clock()
        elif self._clock() - self._unsynced_since > _SYNC_EVERY_S:
            self.sync()

    def keep(self, record: bytes) -> Span:
        """Write one line to the journal.

        Raises:
            QwenctlError: the disk is full or failed; the journal holds whole records still.
        """
        if self._journal is None:
            raise AssertionError("the output was not opened to be in order")
        try:
            self._keeps = True
            return self._journal.append(record)
        except OSError as error:
            raise _write_failed(self._journal.path, error) from error

    def read_kept(self, span: Span) -> bytes:
        """Return a line of the journal."""
        if self._journal is None:
            raise AssertionError("the output was not opened to be in order")
        return self._journal.read(span)

    def nothing_is_kept(self) -> None:
        """All that is in the journal was appended too: it may be emptied."""
        self._keeps = False
        if self._journal and self._journal.is_worth_emptying:
            self.sync()
            self._journal.empty()

    def sync(self) -> None:
        """Wait until what was appended is on the disk."""
        if self._unsynced_since is None:
            return
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise _write_failed(self.path, error) from error
        self._unsynced_since = None

    def records(self) -> Iterator[EarlierRecord]:
        """Read the records that are there, and those that wait in the journal.

        Raises:
            InvalidRequest: a line is none of ours.
        """
        for _, record in self._lines():
            yield record
        for span, record in self._journal.records() if self._journal else ():
            if self.kept.get(_name(record)) == span:
                yield record

    def close(self) -> None:
        """Sync and unlock; a journal of which nothing is needed any more goes away."""
        try:
            self.sync()
            if self._journal and not self._keeps:
                self._journal.empty()
        finally:
            self._close_files()

    def _close_files(self) -> None:
        if self._journal:
            self._journal.close()
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _learn(self) -> None:
        n_whole = 0
        for line, record in self._lines():
            n_whole += len(line)
            if _name(record) in self.answered:
                raise InvalidRequest(f"{self.path} answers {record.key.custom_id!r} twice", _OTHER_FILE)
            self._note(record)
        if n_whole < os.fstat(self._fd).st_size:
            os.ftruncate(self._fd, n_whole)

    def _note(self, record: EarlierRecord) -> None:
        digest = fingerprint(record.key.request_sha256.encode("utf-8", "surrogatepass"))
        self.answered.put(_name(record), digest)
        self.n_answered_errors += record.is_error
        self.n_spent_tokens += record.n_spent_tokens
        if record.n_generated_tokens is not None:
            self._n_generated_tokens += record.n_generated_tokens
            self._n_replies += record.n_replies
        self.settings.add(record.key.settings)

    def _open_journal(self, *, retry_errors: bool, in_order: bool) -> None:
        """Learn what an earlier run kept: the last record of each name that the output lacks."""
        path = BatchJournal.path_of(self.path)
        if not in_order and not path.exists():
            return
        self._journal = BatchJournal(path)
        found = {_name(record): (span, record) for span, record in self._journal.records()}
        for name, (span, record) in found.items():
            if name not in self.answered and not (retry_errors and record.is_error):
                self._note(record)
                self.kept[name] = span
        self._keeps = bool(self.kept)
        if not in_order:
            for span in self.kept.values():
                self.append(self._journal.read(span))
            self.kept, self._keeps = {}, False

    def _lines(self) -> Iterator[tuple[bytes, EarlierRecord]]:
        """Read whole lines; a torn one at the end is passed over."""
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    if not is_torn_record(line):
                        raise InvalidRequest(f"the end of {self.path} is no result of a batch", _OTHER_FILE)
                    return
                record = decode_record(line)
                if record is None:
                    raise InvalidRequest(f"line {number} of {self.path} is no result of a batch", _OTHER_FILE)
                yield line, record

    def _drop_errors(self) -> None:
        """Replace the file by one without error records, which is locked before it has the name."""
        new = self.path.with_name(f".{self.path.name}.tmp")  # ours as long as we hold the lock
        new.unlink(missing_ok=True)
        fd = _open_locked(new)
        try:
            os.fchmod(fd, os.fstat(self._fd).st_mode & 0o777)
            with os.fdopen(fd, "ab", closefd=False) as file:
                file.writelines(line for line, record in self._lines() if not record.is_error)
            os.fsync(fd)
            new.replace(self.path)
        except BaseException:
            os.close(fd)
            new.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd = fd
        DurableFiles().sync_folder(self.path.parent)
        self.answered, self.settings = FingerprintTable(), set()
        self.n_answered_errors = self.n_spent_tokens = self._n_generated_tokens = self._n_replies = 0
        self._learn()


_OTHER_FILE = "choose another output file, or --restart to overwrite this one"


def _name(record: EarlierRecord) -> int:
    return fingerprint(record.key.custom_id.encode("utf-8", "surrogatepass"))


def _open_locked(path: Path) -> int:
    """Open for appending, made if missing, and lock; the file that has the name when the lock is ours."""
    while True:
        try:
            is_new = not path.exists()
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise InvalidRequest(f"cannot write {path}: {error.strerror}") from error
        try:
            if not path.is_file():
                raise InvalidRequest(f"{path} is not a regular file", "a batch goes on where it stopped only in a file")
            _lock(fd, path)
            if is_new:
                DurableFiles().sync_folder(path.parent)
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # replaced between opening and locking


def _lock(fd: int, path: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InvalidRequest(f"another process is writing {path}", "wait for it, or choose another file") from error
    except OSError:
        return  # a file system without locks


def _write_failed(path: Path, error: OSError) -> QwenctlError:
    hint = "the results so far are kept: run the command again when there is room"
    return QwenctlError(f"cannot write {path}: {error.strerror}", hint)
