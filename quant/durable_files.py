"""The file operations that a conversion's safety rests on, one method each, so that a test can make the Nth one fail.

    write temporary sibling → sync → rename → sync folder

Nothing under a final name is ever incomplete, whatever fails and whenever. Knows nothing of models.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_FALLOCATE = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})


class DurableFiles:
    """Writes that reach the disk or raise `OSError`. Has no state: subclasses exist in tests of failing disks."""

    def open(self, path: Path) -> int:
        """Open `path` for reading and writing, made if missing; return the descriptor."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def allocate(self, fd: int, n_bytes: int) -> None:
        """Make the file `n_bytes` long and reserve its blocks where the file system can, so that it fails now or never.

        Not `os.posix_fallocate`: where a file system has no fallocate, glibc's version writes to every block.
        """
        os.truncate(fd, n_bytes)
        function = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None) if os.name == "posix" else None
        if function is None or n_bytes == 0:
            return
        function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
        while function(fd, 0, 0, n_bytes) != 0:
            code = ctypes.get_errno()
            if code in _NO_FALLOCATE:
                return
            if code != errno.EINTR:
                raise OSError(code, os.strerror(code))

    def write_at(self, fd: int, data: memoryview, offset_bytes: int) -> None:
        """Write all of `data` (one byte an element) at `offset_bytes`."""
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data[done:], offset_bytes + done)

    def truncate(self, fd: int, n_bytes: int) -> None:
        """Cut the file."""
        os.truncate(fd, n_bytes)

    def sync_data(self, fd: int) -> None:
        """Wait until the file's contents are on the disk."""
        getattr(os, "fdatasync", os.fsync)(fd)

    def rename(self, source: Path, target: Path) -> None:
        """Give `source` the name `target`, replacing what has it."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove `path` if it is there."""
        path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        """Make the folder `path` if it is not there."""
        path.mkdir(exist_ok=True)

    def remove_folder(self, path: Path) -> None:
        """Remove the folder `path` and all that is in it, if it is there."""
        if path.exists():
            shutil.rmtree(path)

    def sync_folder(self, folder: Path) -> None:
        """Wait until the folder's entries are on the disk: a rename is not, before that."""
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def write_whole(self, path: Path, data: bytes) -> None:
        """Write a small file under `path` and sync it. Not atomic: `path` is a temporary name."""
        fd = self.open(path)
        try:
            self.truncate(fd, 0)
            self.write_at(fd, memoryview(data), 0)
            self.sync_data(fd)
        finally:
            os.close(fd)

    def replace_whole(self, path: Path, parts: Iterable[tuple[int, memoryview]], n_bytes: int) -> None:
        """Put a file of `n_bytes` under `path`, complete; what had the name before keeps it until then.

        Args:
            path: where.
            parts: (offset, data of one byte an element), written in this order.
            n_bytes: length of the file.

        Raises:
            OSError: the disk is full or refuses; no temporary file is left behind.
        """
        temporary = path.with_name(f"{path.name}.{os.getpid()}.new")  # another process may be writing its own
        try:
            fd = self.open(temporary)
            try:
                self.truncate(fd, 0)
                self.allocate(fd, n_bytes)
                for offset_bytes, data in parts:
                    self.write_at(fd, data, offset_bytes)
                self.sync_data(fd)
            finally:
                os.close(fd)
            self.rename(temporary, path)
        except BaseException:
            self.remove(temporary)
            raise
        self.sync_folder(path.parent)

    def free_bytes(self, folder: Path) -> int:
        """Return the bytes that we may still write to the file system of `folder`."""
        return shutil.disk_usage(folder).free


def try_lock(fd: int) -> bool:
    """Lock an open file against other processes that ask; False if one holds it. Closing the file gives it back."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_disk_full(error: OSError) -> bool:
    """Tell whether `error` says that the disk, the quota or the largest file size is exhausted."""
    return error.errno in _NO_SPACE
