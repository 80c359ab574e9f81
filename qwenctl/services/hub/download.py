"""Files of a hub, fetched into a folder over several connections at once, and checked.

    files in order ─→ one thread a file: open, check, publish ─→ runs of slices
    connections    ─→ one thread each: fetch a run, write its slices
    keeper         ─→ sync, record in the journals
    caller         ─→ progress, Ctrl-C

Whatever ends it early (an error, Ctrl-C, SIGKILL, a power cut) leaves journals; the same call goes on with them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from quant.durable_files import DurableFiles, is_disk_full
from quant.errors import NotEnoughDisk, WriteFailed
from quant.partial_output import DISK_RESERVE_BYTES, held_bytes
from qwenctl.errors import DoesNotFit
from qwenctl.services.hub.download_progress import DownloadProgress, RateMeter
from qwenctl.services.hub.download_queue import DownloadQueue
from qwenctl.services.hub.file_download import FileDownload, FileTask, Stopped
from qwenctl.services.hub.growing_download import partial_path
from qwenctl.services.hub.range_client import RangeClient
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.units import format_bytes

PROGRESS_EVERY_S = 0.1
_N_CREDITS = 32  # slices of 1 MiB fetched but not yet recorded: with what sockets hold, under 64 MiB
_MAX_CONNECTIONS = 16
_PATIENCE_S = 1.0  # for threads that are to end


@dataclass(frozen=True, slots=True)
class DownloadOptions:
    """How a download goes about it."""

    n_connections: int = 8
    force: bool = False  # replace files that are there and are other ones
    restart: bool = False  # throw away what an earlier run has left

    def __post_init__(self) -> None:
        if not 1 <= self.n_connections <= _MAX_CONNECTIONS:
            raise ValueError(f"n_connections must lie between 1 and {_MAX_CONNECTIONS}, not {self.n_connections}")


@dataclass(frozen=True, slots=True)
class DownloadedFile:
    """What became of one file."""

    remote: RemoteFile
    path: Path
    n_fetched_bytes: int  # by this run; 0 if it was there
    n_damaged_bytes: int  # found damaged and fetched again


def download(
    client: RangeClient,
    remotes: Sequence[RemoteFile],
    folder: Path,
    options: DownloadOptions | None = None,
    on_progress: Callable[[DownloadProgress], None] = lambda _: None,
    *,
    files: DurableFiles | None = None,
) -> list[DownloadedFile]:
    """Fetch files into `folder`, under their paths in the repository; return one record each, in the same order.

    A file that is there with the right hash is kept. Called again after a failure, it goes on where it was.

    Args:
        client: connections; closed if this raises, so that nothing goes on behind the caller's back.
        remotes: what to fetch; the first ones are fetched first.
        folder: where; made if missing.
        options: how.
        on_progress: called about ten times a second from the calling thread.
        files: how to write.

    Raises:
        DoesNotFit: the disk is too small for what is missing, or became full.
        HubError: see `RangeClient.read`, and `TransferDamaged`.
        OutputExists: another file has the name. OutputBusy: another process fetches it.
        ResumeRefused: an unfinished download of another file has the name.
        OSError, WriteFailed: the disk refuses.
    """
    if len({remote.path for remote in remotes}) < len(remotes):
        raise ValueError("two files to fetch have one name")
    files = files or DurableFiles()
    options = options or DownloadOptions()
    make_folders(folder, remotes, files)
    refuse_what_does_not_fit(folder, remotes, files)
    transfer = _Transfer(client, remotes, folder, options, files)
    try:
        return transfer.run(on_progress)
    except BaseException as error:
        client.close()
        if (ours := _explained(error, folder, files)) is not None:
            raise ours from error
        raise
    finally:
        transfer.end()


def make_folders(folder: Path, remotes: Sequence[RemoteFile], files: DurableFiles) -> None:
    """Make `folder` and the folders in it that the files lie in."""
    folder.mkdir(parents=True, exist_ok=True)
    inner = {parent for remote in remotes for parent in Path(remote.path).parents} - {Path()}
    for parent in sorted(inner):
        files.make_folder(folder / parent)


def refuse_what_does_not_fit(folder: Path, remotes: Sequence[RemoteFile], files: DurableFiles) -> None:
    """Raise unless the disk has room for everything that is not there yet.

    Raises:
        DoesNotFit: the message says what is needed and what there is.
    """
    needed = 0
    for remote in remotes:
        final = folder / remote.path
        if not final.exists() or final.stat().st_size != remote.n_bytes:
            needed += max(0, remote.n_bytes - held_bytes(partial_path(final)))
    free = files.free_bytes(folder)
    if needed and free < needed + DISK_RESERVE_BYTES:
        raise DoesNotFit(
            f"{folder} has {format_bytes(free)} free; what is to be fetched needs {format_bytes(needed)}, "
            f"and {format_bytes(DISK_RESERVE_BYTES)} should be left",
            "free some space, or choose a folder on another disk",
        )


class _Transfer:
    """The threads of one download."""

    def __init__(
        self,
        client: RangeClient,
        remotes: Sequence[RemoteFile],
        folder: Path,
        options: DownloadOptions,
        files: DurableFiles,
    ) -> None:
        self._queue: DownloadQueue[FileDownload] = DownloadQueue(_N_CREDITS)
        tasks = [FileTask(remote, folder / remote.path, options.force, options.restart) for remote in remotes]
        self._downloads = [FileDownload(task, client, self._queue, files) for task in tasks]
        self._waiting = iter(self._downloads)
        self._waiting_lock = threading.Lock()
        n_files = min(options.n_connections, len(remotes))
        self._file_threads = [self._thread(self._run_files) for _ in range(n_files)]
        self._workers = [self._thread(self._work) for _ in range(options.n_connections)]
        self._keeper = self._thread(self._keep)

    def run(self, on_progress: Callable[[DownloadProgress], None]) -> list[DownloadedFile]:
        for thread in (*self._file_threads, *self._workers, self._keeper):
            thread.start()
        meter = RateMeter()
        while not self._is_done():
            self._queue.wait_until(self._is_done, PROGRESS_EVERY_S)
            if self._queue.error:
                raise self._queue.error
            on_progress(self._progress(meter))
        return [
            DownloadedFile(
                download.task.remote,
                download.task.final,
                self._queue.n_fetched_bytes[download],
                download.n_damaged_bytes,
            )
            for download in self._downloads
        ]

    def end(self) -> None:
        """Stop the threads; record what has come; close the files.

        A thread whose connection says nothing may last until that times out; it touches nothing any more.
        """
        self._queue.stop()
        deadline_s = time.monotonic() + _PATIENCE_S
        for thread in (*self._workers, *self._file_threads):
            if thread.ident:
                thread.join(max(0.0, deadline_s - time.monotonic()))
        if self._keeper.ident:
            self._keeper.join()
        try:
            with suppress(OSError):  # what made us stop may be the disk
                self._keep()  # what came after the keeper had ended
        finally:
            for download in self._downloads:
                download.close()

    def _is_done(self) -> bool:
        return all(download.is_complete for download in self._downloads)

    def _progress(self, meter: RateMeter) -> DownloadProgress:
        fetched = self._queue.n_fetched_bytes.total()
        rate = meter.update(time.monotonic(), fetched)
        return DownloadProgress(tuple(download.progress for download in self._downloads), fetched, rate)

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                with suppress(Stopped):
                    work()
            except BaseException as error:
                self._queue.fail(error)

        return threading.Thread(target=run, daemon=True)  # a silent connection must not keep the process

    def _run_files(self) -> None:
        for download in self._next_files():
            download.run()
            self._queue.recorded(0)  # wakes the caller

    def _next_files(self) -> Iterator[FileDownload]:
        while not self._queue.is_stopped:
            with self._waiting_lock:
                download = next(self._waiting, None)
            if download is None:
                return
            yield download

    def _work(self) -> None:
        while item := self._queue.take():
            download, run = item
            download.fetch(run)

    def _keep(self) -> None:
        while arrivals := self._queue.take_arrivals():
            by_file: dict[FileDownload, list[tuple[int, int]]] = {}
            for download, number, crc in arrivals:
                by_file.setdefault(download, []).append((number, crc))
            for download, finished in by_file.items():
                download.record(finished)
            self._queue.recorded(len(arrivals))


def _explained(error: BaseException, folder: Path, files: DurableFiles) -> Exception | None:
    """Return an error of the disk as one of ours; None for those that say enough."""
    full = isinstance(error, NotEnoughDisk) or (isinstance(error, OSError) and is_disk_full(error))
    if full:
        return DoesNotFit(
            f"{folder}: the disk is full, {format_bytes(files.free_bytes(folder))} are left",
            "free some space and give the same command again: what was fetched is kept",
        )
    if isinstance(error, OSError) and not isinstance(error.filename, str):
        hint = "what was fetched is kept: when the disk is well again, the same command goes on"
        return WriteFailed(f"{folder}: {error.strerror or error}", hint)
    return None
