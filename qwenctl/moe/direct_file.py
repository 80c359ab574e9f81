"""A file read past the page cache, into memory of the caller's, with every way it can go wrong as an error.

    granule   what O_DIRECT wants offset, size and address to be multiples of here (512 or 4,096), 0: not possible here

    direct     offset, size and address are multiples     straight into the destination
    staged     they are not                               the whole granules around, into a buffer; the middle is copied
    buffered   no O_DIRECT (tmpfs, other systems)         through the page cache, which then drops the range

Size, modification time and inode are noted at opening and compared after each read, so bytes of a file that was cut
off, written to or replaced meanwhile are never taken for the model's. Knows nothing of experts and threads.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quant.page_cache import drop_from_cache
from qwenctl.moe.staging import Staging

MAX_READ_BYTES = 1 << 30  # Linux reads at most 0x7ffff000 bytes a call
_GRANULES = (512, 4096)
_O_DIRECT: int = getattr(os, "O_DIRECT", 0)
_seek_lock = threading.Lock()

Pread = Callable[[int, Sequence[Any], int], int]


class UnreadableError(Exception):
    """Why bytes could not be read, without the name of the file."""


def _seek_and_read(fd: int, buffers: Sequence[Any], offset: int) -> int:
    """Do what os.preadv does, one caller at a time."""
    with _seek_lock:
        os.lseek(fd, offset, os.SEEK_SET)
        view = memoryview(buffers[0]).cast("B")
        data = os.read(fd, len(view))
        view[: len(data)] = data
        return len(data)


default_pread: Pread = getattr(os, "preadv", _seek_and_read)


class DirectFile:
    """One file that is open for reading.

    Args:
        path: which.
        direct: True asks for O_DIRECT, False forbids it, None takes it where it works.
        pread: what reads (fd, buffers, offset); tests inject faults here.

    Attributes:
        path: absolute.
        size_bytes: when it was opened.
        granule: see above.

    Raises:
        UnreadableError: it cannot be opened, or `direct` is True and O_DIRECT is not possible.
    """

    def __init__(self, path: Path, *, direct: bool | None = None, pread: Pread = default_pread) -> None:
        self.path = path.absolute()
        self._pread = pread
        self._name = os.fspath(self.path)
        self._views: dict[int, Any] = {}
        try:
            self._fd = os.open(self._name, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise UnreadableError(error.strerror or str(error)) from error
        status = os.fstat(self._fd)
        self.size_bytes = status.st_size
        self._noted = (status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)
        self._direct_fd, self.granule = (-1, 0) if direct is False else self._open_direct()
        if direct and not self.granule:
            self.close()
            raise UnreadableError("the file system does not allow O_DIRECT")

    def read(self, offset: int, n_bytes: int, address: int, staging: Staging) -> None:
        """Read a range into memory.

        Args:
            offset: in bytes, from the start of the file.
            n_bytes: at least 1.
            address: where they go; exactly `n_bytes` are written there, on failure possibly fewer or wrong ones.
            staging: the calling thread's.

        Raises:
            UnreadableError: I/O error, fewer bytes than asked for, or a changed file.
        """
        if address <= 0:
            raise UnreadableError("there is no destination")
        granule = self.granule
        if granule and (offset | n_bytes | address) % granule:
            ctypes.memmove(address, self._read_around(offset, n_bytes, staging), n_bytes)
        else:
            self._read_pieces(offset, n_bytes, address)
        self.check_unchanged()

    def read_staged(self, offset: int, n_bytes: int, staging: Staging) -> int:
        """Read a range into `staging` and return the address of its first byte.

        Raises:
            UnreadableError: as `read`.
        """
        address = self._read_around(offset, n_bytes, staging)
        self.check_unchanged()
        return address

    def check_unchanged(self) -> None:
        """Compare what lies under the file's name with what was opened.

        While the inode is the same, its size and time are the open file's: one system call, for which the interpreter's
        lock is given up once, where fstat as well would give it up twice.

        Raises:
            UnreadableError: it was cut off, written to, replaced or removed.
        """
        try:
            now = os.stat(self._name)  # noqa: PTH116 - once a read: half the time
        except OSError as error:
            raise UnreadableError(f"the file is gone ({error.strerror})") from error
        size_bytes, mtime_ns, inode, device = self._noted
        if now.st_ino != inode or now.st_dev != device:
            raise UnreadableError("the file was replaced by another one")
        if now.st_size != size_bytes:
            raise UnreadableError(f"the file was changed: {now.st_size:,} bytes now, {size_bytes:,} when it was opened")
        if now.st_mtime_ns != mtime_ns:
            raise UnreadableError("the file was written to since it was opened")

    def close(self) -> None:
        """Close the file; no read may be under way."""
        for fd in {self._fd, self._direct_fd} - {-1}:
            os.close(fd)
        self._fd = self._direct_fd = -1

    def _read_around(self, offset: int, n_bytes: int, staging: Staging) -> int:
        granule = self.granule or 1
        before = offset % granule
        around = before + n_bytes
        around += -around % granule
        address = staging.at_least(around)
        self._read_pieces(offset - before, around, address, until=before + n_bytes)
        return address + before

    def _read_pieces(self, offset: int, n_bytes: int, address: int, until: int | None = None) -> None:
        """Read; `until` of the bytes are needed, the others may lie behind the end of the file."""
        needed = n_bytes if until is None else until
        done = 0
        while done < needed:
            piece = min(n_bytes - done, MAX_READ_BYTES)
            got = self._read_once(offset + done, piece, address + done)
            if got < min(piece, needed - done):
                raise UnreadableError(f"{got:,} bytes instead of {min(piece, needed - done):,}: the file is cut off")
            done += piece

    def _read_once(self, offset: int, n_bytes: int, address: int) -> int:
        view_type = self._views.get(n_bytes)
        if view_type is None:
            view_type = self._views.setdefault(n_bytes, ctypes.c_char * n_bytes)
        buffers = (view_type.from_address(address),)
        while True:
            direct = bool(self.granule)
            try:
                got = self._pread(self._direct_fd if direct else self._fd, buffers, offset)
            except InterruptedError:
                continue
            except OSError as error:
                if direct and error.errno == errno.EINVAL:  # the granule of this part of the file is another one
                    self.granule = 0
                    continue
                raise UnreadableError(error.strerror or str(error)) from error
            if not direct:
                drop_from_cache(self._fd, offset, n_bytes)
            return got

    def _open_direct(self) -> tuple[int, int]:
        """Return a descriptor that goes past the page cache and its granule, (-1, 0) where there is none."""
        if not _O_DIRECT or not hasattr(os, "preadv"):
            return -1, 0
        try:
            fd = os.open(self._name, os.O_RDONLY | _O_DIRECT)
        except OSError:
            return -1, 0
        with mmap.mmap(-1, 2 * max(_GRANULES)) as memory, memoryview(memory) as view:
            for granule in _GRANULES:
                with view[granule : 2 * granule] as target:
                    try:
                        os.preadv(fd, [target], granule if self.size_bytes >= 2 * granule else 0)
                    except OSError:
                        continue
                    return fd, granule
        os.close(fd)
        return -1, 0
