"""Reread a GGUF file and hold it against the digests kept beside it: which tensors are damaged?

Without digests only the structure can be checked, and the report says so. Memory is one buffer, whatever the file's
size. The format of the digests, and why they cover every bit, is in quant/digests.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from quant.digests import Digests, PartDigest, digest_path, layout_digests, read_digests, write_digests
from quant.errors import DamagedFile, FileFormatError, GgufError
from quant.gguf_read import GgufFile, read_gguf

__all__ = (
    "Digests",
    "VerifyReport",
    "digest_path",
    "digest_tensors",
    "layout_digests",
    "read_digests",
    "verify_file",
    "write_digests",
)

OnProgress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

_BUFFER_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was found in a file, or split set, that is not damaged."""

    path: Path
    n_files: int
    n_tensors: int
    size_bytes: int
    n_files_with_digests: int  # the others were checked for their structure only

    @property
    def is_complete(self) -> bool:
        """Whether every bit was checked."""
        return self.n_files_with_digests == self.n_files


def verify_file(path: Path, on_progress: OnProgress = lambda *_: None) -> VerifyReport:
    """Check a GGUF file, or the split set of which it is the first.

    Raises:
        DamagedFile: names the tensors, "header" or "padding after …" whose bytes have changed.
        GgufError: the structure is broken, and there are no digests that would say where.
        JsonFileError: the digests themselves are unreadable.
    """
    n_with_digests = int(_verify_against_digests(path, on_progress))
    gguf = read_gguf(path)
    for other in gguf.paths[1:]:
        n_with_digests += _verify_against_digests(other, on_progress)
    return VerifyReport(path, len(gguf.paths), len(gguf.tensors), gguf.size_bytes, n_with_digests)


def digest_tensors(gguf: GgufFile, on_progress: OnProgress = lambda *_: None, tool: str = "") -> Digests:
    """Return the digests of the file as it is now, by reading all of it.

    Raises:
        FileFormatError: the file became shorter, or cannot be read.
        ValueError: a split set; each of its files has digests of its own.
    """
    if len(gguf.paths) != 1:
        raise ValueError(f"{gguf.paths[0]} is one of {len(gguf.paths)} split files")
    places = [("header", 0, gguf.data_offset_bytes)]
    places += [(info.name, info.offset_bytes, info.n_bytes) for info in gguf.tensors.values()]
    reader = _Hasher(gguf.paths[0], gguf.size_bytes, on_progress)
    with gguf.paths[0].open("rb") as file:
        parts = [PartDigest(name, offset, n, reader.sha256(file, name, offset, n)) for name, offset, n in places]
    return Digests(gguf.size_bytes, tuple(parts), tool)


def _verify_against_digests(path: Path, on_progress: OnProgress) -> bool:
    """Return whether there are digests; raise if the file does not match them."""
    if not digest_path(path).exists():
        return False
    digests = read_digests(path)
    try:
        size_bytes = path.stat().st_size
        if size_bytes != digests.file_bytes:
            raise DamagedFile(path, (f"its length ({size_bytes:,} instead of {digests.file_bytes:,} bytes)",))
        damaged = _damaged_parts(path, digests, on_progress)
    except OSError as error:
        raise GgufError(path, error.strerror or str(error)) from error
    if damaged:
        raise DamagedFile(path, damaged)
    return True


def _damaged_parts(path: Path, digests: Digests, on_progress: OnProgress) -> tuple[str, ...]:
    hasher = _Hasher(path, digests.file_bytes, on_progress)
    end = PartDigest("", digests.file_bytes, 0, "")
    damaged = []
    with path.open("rb") as file:
        for part, following in pairwise((*digests.parts, end)):
            if hasher.sha256(file, part.name, part.offset_bytes, part.n_bytes) != part.sha256:
                damaged.append(part.name)
            if not hasher.is_zero(file, part.end_bytes, following.offset_bytes - part.end_bytes):
                damaged.append(f"padding after {part.name}")
    return tuple(damaged)


class _Hasher:
    """Reads stretches of one file through one buffer, and counts them."""

    def __init__(self, path: Path, total_bytes: int, on_progress: OnProgress) -> None:
        self._path = path
        self._total_bytes = total_bytes
        self._on_progress = on_progress
        self._done_bytes = 0
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    def sha256(self, file: BinaryIO, name: str, offset_bytes: int, n_bytes: int) -> str:
        digest = hashlib.sha256()
        self._feed(file, name, offset_bytes, n_bytes, digest.update)
        return digest.hexdigest()

    def is_zero(self, file: BinaryIO, offset_bytes: int, n_bytes: int) -> bool:
        found: list[bool] = []
        self._feed(
            file, "padding", offset_bytes, n_bytes, lambda data: found.append(data.tobytes().count(0) != len(data))
        )
        return not any(found)

    def _feed(
        self, file: BinaryIO, name: str, offset_bytes: int, n_bytes: int, take: Callable[[memoryview], object]
    ) -> None:
        file.seek(offset_bytes)
        while n_bytes:
            read = file.readinto(self._buffer[: min(n_bytes, _BUFFER_BYTES)])  # type: ignore[attr-defined]
            if not read:
                raise FileFormatError(
                    self._path, f"{name}: the file became {n_bytes:,} bytes shorter while it was read"
                )
            take(self._buffer[:read])
            n_bytes -= read
            self._done_bytes += read
            self._on_progress(self._done_bytes, self._total_bytes)
