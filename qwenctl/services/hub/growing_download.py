"""A file on its way to its final name: full length from the start, and a journal of what of it is there.

    NAME.partial   bytes at their final places; what is between them is zero and counts for nothing
    NAME.journal   which slices are synced, with their CRC-32 (quant/journal.py)
    NAME           appears by one rename

Two files with the same hash are one file: a newer commit that left it alone goes on with it. Knows nothing of HTTP.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from quant.durable_files import DurableFiles
from quant.partial_output import PartialOutput, held_bytes
from qwenctl.services.hub.remote_file import RemoteFile


class GrowingDownload(PartialOutput):
    """An open, locked download of one file. See `PartialOutput` for what is raised.

    Args:
        remote: what it will be.
        final: where; the folder exists.
        files: how to write.
        force: replace an existing file.
        restart: start over, whatever an earlier run has left.
    """

    def __init__(
        self, remote: RemoteFile, final: Path, files: DurableFiles, *, force: bool = False, restart: bool = False
    ) -> None:
        self._partial = partial_path(final)
        self._gate = threading.Condition()
        self._n_writing = 0
        self._is_closed = False
        super().__init__(
            final, journal_path(final), identity(remote), remote.n_bytes, files, force=force, restart=restart
        )

    @property
    def fd(self) -> int:
        """The growing file."""
        return self.fds[0]

    def write(self, data: memoryview, offset_bytes: int) -> None:
        """Write a piece (one byte an element). Safe from several threads at once; drops it once the file is closed."""
        with self._gate:
            if self._is_closed:
                return
            self._n_writing += 1
        try:
            self._files.write_at(self.fd, data, offset_bytes)
        finally:
            with self._gate:
                self._n_writing -= 1
                self._gate.notify_all()

    def close(self) -> None:
        """Close the files, once nobody is writing.

        A thread that comes late from a silent connection would else write into whatever got the same descriptor.
        """
        with self._gate:
            self._is_closed = True
            self._gate.wait_for(lambda: self._n_writing == 0)
        super().close()

    def record(self, finished: list[tuple[int, int]]) -> None:
        """Make slices, (number, CRC-32), durable, then record them."""
        self._files.sync_data(self.fd)
        self.journal.record_done(finished)

    def publish(self) -> None:
        """Give the file, all of whose slices are recorded, its final name."""
        self.journal.record_ready(os.fstat(self.fd).st_ino)
        self._files.rename(self._partial, self._final)
        self._finish_renaming()
        self.journal.remove()

    def _create(self) -> None:
        self._grow(self._partial, b"", self._total_bytes)
        self._files.sync_folder(self._partial.parent)

    def _open_existing(self) -> bool:
        self.fds = [self._files.open(self._partial)]
        if self._partial.stat().st_size != self._total_bytes:  # what was lost does not have its CRC-32 any more
            self._files.allocate(self.fd, self._total_bytes)
        return True

    def _is_begun(self) -> bool:
        return self._partial.exists()

    def _discard(self, files: DurableFiles) -> None:
        files.remove(self._partial)

    def _held_bytes(self) -> int:
        return held_bytes(self._partial)

    def _finish_renaming(self) -> None:
        self._files.sync_folder(self._final.parent)


def partial_path(final: Path) -> Path:
    """Return where a file grows."""
    return final.with_name(f"{final.name}.partial")


def journal_path(final: Path) -> Path:
    """Return where what is done of it is recorded."""
    return final.with_name(f"{final.name}.journal")


def identity(remote: RemoteFile) -> dict[str, str]:
    """Return what the bytes of a file depend on."""
    if remote.sha256:
        contents = f"SHA-256 {remote.sha256}"
    elif remote.git_oid:
        contents = f"Git hash {remote.git_oid}"
    else:
        contents = f"{remote.name} at commit {remote.commit}, ETag {remote.etag}"
    return {"file": contents, "size": str(remote.n_bytes)}
