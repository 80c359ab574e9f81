"""Read a finished conversion back from the disk: does every slice hold what was encoded, and what are its digests?

Checksums of slices were taken in memory when they were encoded, by this run or by one that was killed, so a disk that
lost or changed a byte is found here, before the file gets its name.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Mapping
from pathlib import Path

from quant.conversion_plan import ConversionPlan
from quant.errors import WriteFailed
from quant.page_cache import drop_from_cache
from quant.slice_workers import Finished
from quant.work_slices import WorkSlice


class TensorCheck:
    """Reads tensors back; called from several threads, each with its own buffer.

    `digests` holds the SHA-256, in hexadecimal, of every tensor checked so far.

    Args:
        plan: what was written.
        fd: the output.
        crcs: CRC-32 of every slice.
        path: the output, for messages.
    """

    def __init__(self, plan: ConversionPlan, fd: int, crcs: Mapping[int, int], path: Path) -> None:
        self._plan = plan
        self._fd = fd
        self._crcs = crcs
        self._path = path
        self._slices_of: list[list[tuple[int, WorkSlice]]] = [[] for _ in plan.layout.placed]
        for number, work in enumerate(plan.slices):
            self._slices_of[work.tensor].append((number, work))
        self._buffers = threading.local()
        self._buffer_bytes = max(work.n_bytes for work in plan.slices)
        self.digests: dict[str, str] = {}

    def __call__(self, tensor: int) -> Finished:
        """Check the tensor of this index.

        Raises:
            WriteFailed: other bytes than were written.
        """
        digest = hashlib.sha256()
        for number, work in self._slices_of[tensor]:
            data = self._read(work.offset_bytes, work.n_bytes)
            if zlib.crc32(data) != self._crcs[number]:
                raise self._lost(self._plan.layout.placed[tensor].name)
            digest.update(data)
            drop_from_cache(self._fd, work.offset_bytes, work.n_bytes)
        place = self._plan.layout.placed[tensor]
        self.digests[place.name] = digest.hexdigest()
        return Finished(tensor, 0, 0, sum(work.n_weights for _, work in self._slices_of[tensor]))

    def check_header(self) -> str:
        """Check the bytes before the first tensor; return their SHA-256.

        Raises:
            WriteFailed: other bytes than were written.
        """
        header = self._plan.layout.header
        if os.pread(self._fd, len(header), 0) != header:
            raise self._lost("the header")
        return hashlib.sha256(header).hexdigest()

    def _read(self, offset_bytes: int, n_bytes: int) -> memoryview:
        if not hasattr(self._buffers, "data"):
            self._buffers.data = memoryview(bytearray(self._buffer_bytes))
        data: memoryview = self._buffers.data[:n_bytes]
        done = 0
        while done < n_bytes:
            read = os.preadv(self._fd, [data[done:]], offset_bytes + done)
            if read == 0:
                raise WriteFailed(f"{self._path}: became shorter while it was written", "--restart starts over")
            done += read
        return data

    def _lost(self, what: str) -> WriteFailed:
        return WriteFailed(
            f"{self._path}: {what} reads back differently from what was written: the disk or the memory is at fault",
            "--restart starts over; another disk is the better idea",
        )
