"""Read a finished conversion back from the disk: does every slice hold what was encoded, and what are its digests?

Checksums of slices were taken in memory when they were encoded, by this run or by one that was killed, so a disk that
lost or changed a byte is found here, before the output gets its name.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quant.errors import WriteFailed
from quant.page_cache import drop_from_cache
from quant.slice_workers import Finished

HEADER = "header"
"""Name of the part before the first tensor."""

_BUFFER_BYTES = 4 << 20


class Written(Protocol):
    """A unit of work: consecutive bytes of one of the output's files."""

    @property
    def file(self) -> int:
        """Which of the output's files."""
        ...

    @property
    def offset_bytes(self) -> int:
        """Where it begins in the file."""
        ...

    @property
    def n_bytes(self) -> int:
        """How much was written."""
        ...

    @property
    def n_weights(self) -> int:
        """Number of weights that it holds."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a file that gets one digest: `header`, at the file's beginning, then its units, by number."""

    name: str
    fd: int
    units: Mapping[int, Written]
    header: bytes = b""

    @property
    def n_weights(self) -> int:
        """Number of weights in its units."""
        return sum(unit.n_weights for unit in self.units.values())


class PartCheck:
    """Reads parts back; called from several threads, each with its own buffer.

    `digests` holds the SHA-256, in hexadecimal, of every part checked so far.

    Args:
        parts: what was written.
        crcs: CRC-32 of every unit.
        path: the output, for messages.
    """

    def __init__(self, parts: Sequence[Part], crcs: Mapping[int, int], path: Path) -> None:
        self._parts = parts
        self._crcs = crcs
        self._path = path
        self._buffers = threading.local()
        self.digests: dict[str, str] = {}

    def __call__(self, number: int) -> Finished:
        """Check the part of this number.

        Raises:
            WriteFailed: other bytes than were written.
        """
        part = self._parts[number]
        digest = hashlib.sha256(part.header)
        if os.pread(part.fd, len(part.header), 0) != part.header:
            raise self._lost("the header")
        for unit, written in part.units.items():
            crc = 0
            for data in self._read(part.fd, written.offset_bytes, written.n_bytes):
                crc = zlib.crc32(data, crc)
                digest.update(data)
            if crc != self._crcs[unit]:
                raise self._lost(part.name)
            drop_from_cache(part.fd, written.offset_bytes, written.n_bytes)
        self.digests[part.name] = digest.hexdigest()
        return Finished(number, 0, 0, part.n_weights)

    def _read(self, fd: int, offset_bytes: int, n_bytes: int) -> Iterator[memoryview]:
        if not hasattr(self._buffers, "data"):
            self._buffers.data = memoryview(bytearray(_BUFFER_BYTES))
        while n_bytes:
            data: memoryview = self._buffers.data[: min(n_bytes, _BUFFER_BYTES)]
            read = os.preadv(fd, [data], offset_bytes)
            if read == 0:
                raise WriteFailed(f"{self._path}: became shorter while it was written", "--restart starts over")
            yield data[:read]
            offset_bytes, n_bytes = offset_bytes + read, n_bytes - read

    def _lost(self, what: str) -> WriteFailed:
        return WriteFailed(
            f"{self._path}: {what} reads back differently from what was written: the disk or the memory is at fault",
            "--restart starts over; another disk is the better idea",
        )
