"""Threads that read slices of a model's files into memory of the caller's: straight, or by way of a function.

    submit ─► queue (urgent, then the others) ─► threads ─► DirectFile ─► address
                                                                     └─► staging ─► function (address of the bytes)

The parts of one ticket are read by several threads at once. Every failure is an `ExpertReadFailed` of its ticket,
naming what was read, the file and the offset; other tickets go on. Knows nothing of slots, layouts or which expert is
wanted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from qwenctl.errors import ExpertReadFailed
from qwenctl.moe.direct_file import DirectFile, Pread, UnreadableError, default_pread
from qwenctl.moe.expert_map import Slice
from qwenctl.moe.read_queue import Destination, QueueEntry, ReadQueue, ReadTicket
from qwenctl.moe.staging import Staging

_HINT = "check the disk and whether the model's file was changed; `qwenctl inspect` reads its header"


@dataclass(slots=True)
class _Counts:
    """What one thread has done; only it writes here."""

    bytes_read: int = 0
    n_reads: int = 0
    busy_s: float = 0.0


class ExpertReader:
    """Reads slices with a few threads.

    Args:
        paths: the files that slices index.
        n_threads: reads at the same time.
        direct: whether to go past the page cache; None: where the file system allows it.
        on_thread_start: called once in each thread before it reads.
        file_bytes: sizes that the files must have, where they are known already.
        pread: what reads (fd, buffers, offset), for the injection of faults.

    Raises:
        ExpertReadFailed: a file cannot be opened, or has another size.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        n_threads: int = 4,
        direct: bool | None = None,
        on_thread_start: Callable[[], None] | None = None,
        file_bytes: Sequence[int] | None = None,
        pread: Pread = default_pread,
    ) -> None:
        if n_threads < 1:
            raise ValueError(f"{n_threads} threads cannot read")
        self._files: list[DirectFile] = []
        self._queue = ReadQueue()
        self._on_thread_start = on_thread_start
        self._counts = [_Counts() for _ in range(n_threads)]
        self._threads: list[threading.Thread] = []
        try:
            for path in paths:
                self._files.append(_open(path, direct, pread))
            self._check_sizes(file_bytes)
        except BaseException:
            self.close()
            raise
        for number, counts in enumerate(self._counts):
            thread = threading.Thread(target=self._work, args=(counts,), name=f"expert-reader-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def file_bytes(self) -> tuple[int, ...]:
        """Sizes of the files when they were opened."""
        return tuple(file.size_bytes for file in self._files)

    @property
    def granules(self) -> tuple[int, ...]:
        """Bytes of which offset, size and address are multiples in reads without a copy, by file; 0: page cache."""
        return tuple(file.granule for file in self._files)

    @property
    def bytes_read(self) -> int:
        """Bytes of slices that have arrived."""
        return sum(counts.bytes_read for counts in self._counts)

    @property
    def n_reads(self) -> int:
        """Slices that have arrived."""
        return sum(counts.n_reads for counts in self._counts)

    @property
    def busy_s(self) -> float:
        """Seconds in reads that succeeded, summed over the threads; functions of destinations are not counted."""
        return sum(counts.busy_s for counts in self._counts)

    def submit(self, what: str, parts: Sequence[tuple[Slice, Destination]], *, urgent: bool = True) -> ReadTicket:
        """Queue the parts of one thing.

        Args:
            what: its name in errors.
            parts: slices with their destinations: an address of `n_bytes` to fill, or a function that is called in the
                reading thread with the address of the slice's bytes, which are gone when it returns.
            urgent: whether to read it before everything that is not.

        Returns:
            The ticket; failed already if the reader is closed.
        """
        ticket = ReadTicket(what, len(parts))
        entries = [(ticket, piece, destination) for piece, destination in parts]
        if not self._queue.put(entries, urgent=urgent):
            _refuse(entries)
        return ticket

    def close(self) -> None:
        """Finish the reads under way, fail all others, and close the files. May be called again."""
        _refuse(self._queue.close())
        for thread in self._threads:
            thread.join()
        while self._files:
            self._files.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_sizes(self, file_bytes: Sequence[int] | None) -> None:
        for file, expected in zip(self._files, file_bytes or (), strict=file_bytes is not None):
            if file.size_bytes != expected:
                raise ExpertReadFailed(f"{file.path}: {file.size_bytes:,} bytes instead of {expected:,}", _HINT)

    def _work(self, counts: _Counts) -> None:
        sleeper = threading.Lock()
        sleeper.acquire()
        staging = Staging()
        obstacle: Exception | None = None
        try:
            if self._on_thread_start is not None:
                self._on_thread_start()
        except Exception as error:
            obstacle = error
        while (entry := self._queue.get(sleeper)) is not None:
            ticket = entry[0]
            ticket.end_part(self._read_part(entry, counts, staging, obstacle) if ticket.begin_part() else None)
            del entry, ticket  # a thread that sleeps keeps no destination alive
        staging.close()

    def _read_part(
        self, entry: QueueEntry, counts: _Counts, staging: Staging, obstacle: Exception | None
    ) -> ExpertReadFailed | None:
        """Read one part; return what went wrong."""
        ticket, piece, destination = entry
        try:
            if obstacle is not None:
                raise obstacle
            file = self._file(piece)
            start = time.perf_counter()
            if isinstance(destination, int):
                file.read(piece.offset_bytes, piece.n_bytes, destination, staging)
                counts.busy_s += time.perf_counter() - start
            else:
                address = file.read_staged(piece.offset_bytes, piece.n_bytes, staging)
                counts.busy_s += time.perf_counter() - start
                destination(address)
        except BaseException as error:
            return self._failure(ticket, piece, error)
        counts.bytes_read += piece.n_bytes
        counts.n_reads += 1
        return None

    def _file(self, piece: Slice) -> DirectFile:
        if not 0 <= piece.file < len(self._files):
            raise UnreadableError(f"there is no file {piece.file} of {len(self._files)}")
        file = self._files[piece.file]
        if piece.n_bytes < 1 or piece.offset_bytes < 0 or piece.offset_bytes + piece.n_bytes > file.size_bytes:
            raise UnreadableError(f"{piece.n_bytes:,} bytes are not inside the file of {file.size_bytes:,}")
        return file

    def _failure(self, ticket: ReadTicket, piece: Slice, error: BaseException) -> ExpertReadFailed:
        name = self._files[piece.file].path if 0 <= piece.file < len(self._files) else f"file {piece.file}"
        text = " ".join(str(error).split())
        reason = text if isinstance(error, UnreadableError) else f"{type(error).__name__}: {text}"
        failed = ExpertReadFailed(f"{ticket.what}: {name} at byte {piece.offset_bytes:,}: {reason}", _HINT)
        failed.__cause__ = error
        return failed


def _open(path: Path, direct: bool | None, pread: Pread) -> DirectFile:
    try:
        return DirectFile(path, direct=direct, pread=pread)
    except UnreadableError as error:
        raise ExpertReadFailed(f"{path}: {error}", _HINT) from error


def _refuse(entries: Sequence[QueueEntry]) -> None:
    for ticket, piece, _ in entries:
        failed = ExpertReadFailed(
            f"{ticket.what}: file {piece.file} at byte {piece.offset_bytes:,}: the reader was closed"
        )
        ticket.end_part(failed)
