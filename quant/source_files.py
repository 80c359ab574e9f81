"""Where the files of a checkpoint's weights are: on the disk, or somewhere else that offers the same five operations.

Planning asks for names, sizes and headers; whoever reads weights opens the files for positioned reads. Small files
(config.json, tokenizer, index) always lie in a folder on the disk. Knows nothing of what is in a file.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from threading import Lock
from typing import Protocol

_HASH_CHARS = 16


class PositionedReads(Protocol):
    """Files that are open for reading; safe from several threads."""

    def read_into(self, path: Path, offset_bytes: int, out: memoryview) -> int:
        """Fill the front of `out`, one byte an element, from `offset_bytes` on; return how much, 0 at the end.

        Raises:
            OSError: the file cannot be read.
        """
        ...

    def close(self) -> None:
        """Close them. No other thread may still be reading."""
        ...


class Openable(Protocol):
    """What can be opened for positioned reads."""

    def open(self) -> PositionedReads:
        """Return the files, open; each is opened when it is first read."""
        ...


class SourceFiles(Openable, Protocol):
    """The files of one checkpoint, each named by a path, whether or not the disk has it."""

    def names(self, folder: Path) -> set[str]:
        """Return the names of the files in `folder`."""
        ...

    def size_bytes(self, path: Path) -> int:
        """Return the length of a file.

        Raises:
            OSError: there is none, or it is no regular file.
        """
        ...

    def read(self, path: Path, offset_bytes: int, n_bytes: int) -> bytes:
        """Return `n_bytes` from `offset_bytes` on; fewer where the file ends.

        Raises:
            OSError: the file cannot be read.
        """
        ...

    def describe(self, path: Path) -> str:
        """Return what identifies a file of safetensors, its header validated, as text that can be shown."""
        ...


class DiskFiles:
    """Files in a folder."""

    def names(self, folder: Path) -> set[str]:
        """Return the names of all that is there; a link to nowhere is not."""
        return {path.name for path in folder.iterdir() if path.exists()}

    def size_bytes(self, path: Path) -> int:
        """Return the length of a regular file."""
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise OSError("not a regular file")
        return status.st_size

    def read(self, path: Path, offset_bytes: int, n_bytes: int) -> bytes:
        """Return some bytes."""
        with path.open("rb") as file:
            file.seek(offset_bytes)
            return file.read(n_bytes)

    def describe(self, path: Path) -> str:
        """Return size, time and digest of the header: hashing weights would cost as much as converting them."""
        status = path.stat()
        return f"{status.st_size} bytes, modified {status.st_mtime_ns}, header {header_digest(self, path)}"

    def open(self) -> OpenFiles:
        """Return the files, open."""
        return OpenFiles()


DISK = DiskFiles()


class OpenFiles:
    """Any number of files on the disk, each opened once."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._lock = Lock()

    def read_into(self, path: Path, offset_bytes: int, out: memoryview) -> int:
        """Read at a position; reads carry it, so one descriptor serves all threads."""
        return os.preadv(self._descriptor(path), [out], offset_bytes)

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _descriptor(self, path: Path) -> int:
        with self._lock:
            if path not in self._descriptors:
                self._descriptors[path] = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            return self._descriptors[path]


def header_digest(files: SourceFiles, path: Path) -> str:
    """Return a digest of the header of a file of safetensors, that was validated, with the length before it."""
    prefix = files.read(path, 0, 8)
    header = files.read(path, 8, int.from_bytes(prefix, "little"))
    return hashlib.sha256(prefix + header).hexdigest()[:_HASH_CHARS]
