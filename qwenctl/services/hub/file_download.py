"""One file of a download, from the first look for it to its final name. Runs in a thread of its own.

    look      it is there, whole                                     → done
    open      a journal is there: its slices need not be fetched
    check     read the slices back in order as they arrive: a recorded one whose CRC-32 differs is fetched again;
              all of them go into the hash
    repair    the hash differs: fetch all once more, in order, replace what differs, until the hash fits
    publish   rename, once everything is recorded

Slices that arrive before their turn wait on the disk, which means in the page cache. Knows nothing of other files.
"""

from __future__ import annotations

import os
import zlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from quant.durable_files import DurableFiles
from qwenctl.errors import TransferDamaged
from qwenctl.services.hub.content_hash import ContentHash
from qwenctl.services.hub.download_progress import FileProgress
from qwenctl.services.hub.download_queue import DownloadQueue
from qwenctl.services.hub.growing_download import GrowingDownload, journal_path
from qwenctl.services.hub.hashing import holds
from qwenctl.services.hub.range_client import RangeClient
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.services.hub.slices import SLICE_BYTES, missing_runs, n_slices, slice_span


class Stopped(Exception):
    """The download ends early; whoever made it end knows why."""


@dataclass(frozen=True, slots=True)
class FileTask:
    """What is to become of one file."""

    remote: RemoteFile
    final: Path
    force: bool = False
    restart: bool = False


class FileDownload:
    """One file. `run` works until it has its final name; `fetch` is called by the connections' threads.

    Args:
        task: what is wanted.
        client: fetches.
        queue: shared with the other files.
        files: how to write.
    """

    def __init__(
        self, task: FileTask, client: RangeClient, queue: DownloadQueue[FileDownload], files: DurableFiles
    ) -> None:
        self.task = task
        self._client, self._queue, self._files = client, queue, files
        self._output: GrowingDownload | None = None
        self._crcs: dict[int, int] = {}  # slices that are here → CRC-32 as they arrived
        self._unchecked: set[int] = set()  # those of an earlier run that were not read back yet
        self._n_recorded = 0
        self.is_complete = False
        self.n_damaged_bytes = 0  # found on the disk, or by the repair

    def run(self) -> None:
        """Make the file.

        Raises:
            TransferDamaged: the hash differs even after the repair.
            Stopped: the queue was stopped.
            OutputExists, OutputBusy, ResumeRefused, NotEnoughDisk, OSError: see `PartialOutput`.
        """
        if self._is_there():
            self.is_complete = True
            return
        task = self.task
        output = GrowingDownload(task.remote, task.final, self._files, force=task.force, restart=task.restart)
        self._output = output
        if not output.is_published:
            self._fill(output)
            output.publish()
        self.is_complete = True
        self.close()

    def close(self) -> None:
        """Close what is open."""
        if self._output:
            self._output.close()

    @property
    def progress(self) -> FileProgress:
        """What is done of it."""
        n_bytes = self.task.remote.n_bytes
        n_done = n_bytes if self.is_complete else min(n_bytes, len(self._crcs) * SLICE_BYTES)
        return FileProgress(self.task.remote.path, n_bytes, n_done, self.is_complete)

    def fetch(self, run: range) -> None:
        """Fetch consecutive slices and write them where they belong. Raises what `RangeClient.read` does, OSError."""
        remote, number, crc = self.task.remote, run.start, 0
        at, end = slice_span(number, remote.n_bytes).offset_bytes, _end(run.stop - 1, remote)
        left = slice_span(number, remote.n_bytes).n_bytes
        if not self._queue.take_credit():
            return
        with closing(self._client.read(remote, at, end - at)) as chunks:
            for chunk in chunks:
                self._queue.count(self, len(chunk))
                rest = memoryview(chunk)
                while rest:
                    part, rest = rest[:left], rest[left:]
                    self._opened.write(part, at)
                    crc, at, left = zlib.crc32(part, crc), at + len(part), left - len(part)
                    if left:
                        continue
                    self._arrived(number, crc)
                    number, crc = number + 1, 0
                    if number < run.stop:
                        left = slice_span(number, remote.n_bytes).n_bytes
                        if not self._queue.take_credit():
                            return

    def record(self, finished: list[tuple[int, int]]) -> None:
        """Make slices durable. Called by the keeper alone."""
        self._opened.record(finished)
        self._n_recorded += len(finished)

    @property
    def _opened(self) -> GrowingDownload:
        if self._output is None:
            raise RuntimeError("a slice of a file that was not opened")
        return self._output

    def _arrived(self, number: int, crc: int) -> None:
        self._crcs[number] = crc
        self._queue.arrived(self, number, crc)

    def _is_there(self) -> bool:
        """Tell whether the file has its final name already, whole, and no earlier run is still at it."""
        final = self.task.final
        if self.task.restart or journal_path(final).exists() or not final.is_file():
            return False
        return holds(final, self.task.remote, self._raise_if_stopped)

    def _fill(self, output: GrowingDownload) -> None:
        """Let all slices come, and check them."""
        remote = self.task.remote
        count = n_slices(remote.n_bytes)
        self._crcs = {number: crc for number, crc in output.journal.state.done.items() if number < count}
        self._unchecked = set(self._crcs)
        self._n_recorded = len(self._crcs)
        self._queue.put(self, list(missing_runs(remote.n_bytes, self._crcs)))
        found = self._check_in_order(output)
        if not found.fits:
            self._repair(output, found)
        self._wait_for_record()

    def _check_in_order(self, output: GrowingDownload) -> ContentHash:
        """Read every slice back as soon as it is here; return the hash of all."""
        remote = self.task.remote
        found, buffer = ContentHash(remote), memoryview(bytearray(SLICE_BYTES))
        for number in range(n_slices(remote.n_bytes)):
            self._wait_for(number)
            data = _read_back(output.fd, number, remote, buffer)
            if number in self._unchecked and zlib.crc32(data) != self._crcs[number]:
                self._fetch_again(number, len(data))
                data = _read_back(output.fd, number, remote, buffer)
            found.update(data)
        return found

    def _fetch_again(self, number: int, n_bytes: int) -> None:
        """Replace a slice that an earlier run recorded and that the disk has lost."""
        self.n_damaged_bytes += n_bytes
        self._n_recorded -= 1
        del self._crcs[number]
        self._queue.put(self, [range(number, number + 1)], first=True)
        self._wait_for(number)

    def _raise_if_stopped(self, _: int = 0) -> None:
        if self._queue.is_stopped:
            raise Stopped

    def _wait_for(self, number: int) -> None:
        if number not in self._crcs:
            self._queue.wait_until(lambda: number in self._crcs)
        self._raise_if_stopped()

    def _wait_for_record(self) -> None:
        count = n_slices(self.task.remote.n_bytes)
        if not self._queue.wait_until(lambda: self._n_recorded >= count):
            raise Stopped

    def _repair(self, output: GrowingDownload, found: ContentHash) -> None:
        """Fetch the whole file again, in order, and replace what differs, until its hash fits.

        The hash is computed anew after 1, 2, 4, 8 … differences: mostly there is one.
        """
        remote = self.task.remote
        buffer = memoryview(bytearray(SLICE_BYTES))
        n_differences, look_at = 0, 1
        for number in range(n_slices(remote.n_bytes)):
            fresh = self._fetch_slice(number)
            if fresh == _read_back(output.fd, number, remote, buffer):
                continue
            self._replace(output, number, fresh)
            n_differences += 1
            if n_differences == look_at:
                look_at *= 2
                found = self._hash_all(output.fd)
                if found.fits:
                    return
        found = self._hash_all(output.fd) if n_differences else found
        if not found.fits:
            raise TransferDamaged(
                f"{remote.name}: comes with {found.kind} {found.found[:16]}… instead of {str(found.expected)[:16]}…, "
                "also when it is fetched again",
                "something on the way, or the hub's storage, changes it: try again later or over another network",
            )

    def _fetch_slice(self, number: int) -> bytes:
        span = slice_span(number, self.task.remote.n_bytes)
        pieces = []
        with closing(self._client.read(self.task.remote, span.offset_bytes, span.n_bytes)) as chunks:
            for chunk in chunks:
                self._raise_if_stopped()
                self._queue.count(self, len(chunk))
                pieces.append(chunk)
        return b"".join(pieces)

    def _replace(self, output: GrowingDownload, number: int, data: bytes) -> None:
        if not self._queue.take_credit():
            raise Stopped
        self.n_damaged_bytes += len(data)
        output.write(memoryview(data), slice_span(number, self.task.remote.n_bytes).offset_bytes)
        self._n_recorded -= 1
        self._arrived(number, zlib.crc32(data))

    def _hash_all(self, fd: int) -> ContentHash:
        found, buffer = ContentHash(self.task.remote), memoryview(bytearray(SLICE_BYTES))
        for number in range(n_slices(self.task.remote.n_bytes)):
            self._raise_if_stopped()
            found.update(_read_back(fd, number, self.task.remote, buffer))
        return found


def _end(number: int, remote: RemoteFile) -> int:
    span = slice_span(number, remote.n_bytes)
    return span.offset_bytes + span.n_bytes


def _read_back(fd: int, number: int, remote: RemoteFile, buffer: memoryview) -> memoryview:
    """Return a slice as the file has it; shorter where the file ends too soon."""
    span = slice_span(number, remote.n_bytes)
    done = 0
    while done < span.n_bytes:
        n_read = os.preadv(fd, [buffer[done : span.n_bytes]], span.offset_bytes + done)
        if n_read == 0:
            break
        done += n_read
    return buffer[:done]
