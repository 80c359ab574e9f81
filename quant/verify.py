"""Reread a GGUF file and hold it against the digests kept beside it: which tensors are damaged?

Without digests only the structure can be checked, and the report says so. Memory is one buffer a thread, whatever the
file's size. The format of the digests, and why they cover every bit, is in quant/digests.py.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self, TypeVar

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
"""Called with (bytes done, bytes in all), by one thread at a time but not always the same."""

_BUFFER_BYTES = 4 << 20
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


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


def verify_file(path: Path, on_progress: OnProgress = lambda *_: None, n_threads: int = 4) -> VerifyReport:
    """Check a GGUF file, or the split set of which it is the first.

    Raises:
        DamagedFile: names the tensors, "header" or "padding after …" whose bytes have changed.
        GgufError: the structure is broken, and there are no digests that would say where.
        JsonFileError: the digests themselves are unreadable.
    """
    n_with_digests = int(_verify_against_digests(path, on_progress, n_threads))
    gguf = read_gguf(path)
    for other in gguf.paths[1:]:
        n_with_digests += _verify_against_digests(other, on_progress, n_threads)
    return VerifyReport(path, len(gguf.paths), len(gguf.tensors), gguf.size_bytes, n_with_digests)


def digest_tensors(
    gguf: GgufFile, on_progress: OnProgress = lambda *_: None, tool: str = "", n_threads: int = 4
) -> Digests:
    """Return the digests of the file as it is now, by reading all of it.

    Raises:
        FileFormatError: the file became shorter, or cannot be read.
        ValueError: a split set; each of its files has digests of its own.
    """
    if len(gguf.paths) != 1:
        raise ValueError(f"{gguf.paths[0]} is one of {len(gguf.paths)} split files")
    places = [("header", 0, gguf.data_offset_bytes)]
    places += [(info.name, info.offset_bytes, info.n_bytes) for info in gguf.tensors.values()]
    with _Stretches(gguf.paths[0], gguf.size_bytes, on_progress) as stretches:
        hashes = _in_threads(lambda place: stretches.sha256(*place), places, n_threads)
    parts = (PartDigest(*place, sha256) for place, sha256 in zip(places, hashes, strict=True))
    return Digests(gguf.size_bytes, tuple(parts), tool)


def _verify_against_digests(path: Path, on_progress: OnProgress, n_threads: int) -> bool:
    """Return whether there are digests; raise if the file does not match them."""
    if not digest_path(path).exists():
        return False
    digests = read_digests(path)
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        raise GgufError(path, error.strerror or str(error)) from error
    if size_bytes != digests.file_bytes:
        raise DamagedFile(path, (f"its length ({size_bytes:,} instead of {digests.file_bytes:,} bytes)",))
    end = PartDigest("", digests.file_bytes, 0, "")
    with _Stretches(path, digests.file_bytes, on_progress) as stretches:
        found = _in_threads(lambda pair: _damage(stretches, *pair), pairwise((*digests.parts, end)), n_threads)
    damaged = tuple(name for names in found for name in names)
    if damaged:
        raise DamagedFile(path, damaged)
    return True


def _damage(stretches: _Stretches, part: PartDigest, following: PartDigest) -> list[str]:
    """Return what is damaged of a part and of the padding between it and the following one."""
    damaged = []
    if stretches.sha256(part.name, part.offset_bytes, part.n_bytes) != part.sha256:
        damaged.append(part.name)
    if not stretches.is_zero(part.end_bytes, following.offset_bytes - part.end_bytes):
        damaged.append(f"padding after {part.name}")
    return damaged


def _in_threads(work: Callable[[_Item], _Result], items: Iterable[_Item], n_threads: int) -> list[_Result]:
    """Return `work` of each item, in order. An error or an interrupt leaves after the items that are being done."""
    pool = ThreadPoolExecutor(n_threads)
    try:
        return list(pool.map(work, items))
    finally:
        pool.shutdown(cancel_futures=True)


class _Stretches:
    """Reads stretches of one file, from several threads with a buffer each, and counts what was read."""

    def __init__(self, path: Path, total_bytes: int, on_progress: OnProgress) -> None:
        self._path = path
        self._total_bytes = total_bytes
        self._on_progress = on_progress
        self._done_bytes = 0
        self._lock = threading.Lock()
        self._buffers = threading.local()
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise GgufError(path, error.strerror or str(error)) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def sha256(self, name: str, offset_bytes: int, n_bytes: int) -> str:
        digest = hashlib.sha256()
        for data in self._read(name, offset_bytes, n_bytes):
            digest.update(data)
        return digest.hexdigest()

    def is_zero(self, offset_bytes: int, n_bytes: int) -> bool:
        return not any(data.tobytes().strip(b"\0") for data in self._read("padding", offset_bytes, n_bytes))

    def _read(self, name: str, offset_bytes: int, n_bytes: int) -> Iterator[memoryview]:
        if not hasattr(self._buffers, "data"):
            self._buffers.data = memoryview(bytearray(_BUFFER_BYTES))
        while n_bytes:
            data: memoryview = self._buffers.data[: min(n_bytes, _BUFFER_BYTES)]
            try:
                read = os.preadv(self._file.fileno(), [data], offset_bytes)
            except OSError as error:
                raise GgufError(self._path, f"{name}: {error.strerror or error}") from error
            if not read:
                raise FileFormatError(
                    self._path, f"{name}: the file became {n_bytes:,} bytes shorter while it was read"
                )
            yield data[:read]
            offset_bytes, n_bytes = offset_bytes + read, n_bytes - read
            with self._lock:
                self._done_bytes += read
                self._on_progress(self._done_bytes, self._total_bytes)
