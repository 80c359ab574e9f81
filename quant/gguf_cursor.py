"""A position in the front of a GGUF file, and the steps that can be taken from it: each held against the file first.

Nothing is sliced, allocated or converted before it is known that the file goes on that far. The bytes at hand may be
fewer than the file's: then `NeedMoreBytesError` says so, and the caller comes again with more.
Knows how strings and numbers are stored; knows nothing of keys and tensors.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from quant.errors import GgufError
from quant.gguf_format import NUMBER_FORMATS, GgufValueType

MAX_HEADER_BYTES = 128 << 20  # Qwen3's is 6 MB, the largest vocabularies make 20
CUT_OFF = "download it again: it was cut off"


class NeedMoreBytesError(Exception):
    """The header goes on behind the bytes that were given, but not behind the file."""


class Cursor:
    """Reads `data`, the first bytes of a file of `file_bytes`; `path` is for messages. `what` names what is read."""

    def __init__(self, path: Path, data: bytes, file_bytes: int) -> None:
        self.path = path
        self.data = data
        self.file_bytes = file_bytes
        self.position = 0

    @property
    def n_left(self) -> int:
        """Bytes of the file behind the position."""
        return self.file_bytes - self.position

    def refuse(self, detail: str, hint: str | None = None) -> NoReturn:
        """Raise the error that names the file."""
        raise GgufError(self.path, detail, hint)

    def need(self, n_bytes: int, what: str) -> None:
        """Raise unless the next `n_bytes` are at hand."""
        end = self.position + n_bytes
        if end <= len(self.data):
            return
        if end > self.file_bytes:
            self.refuse(f"{what} takes {n_bytes:,} bytes at byte {self.position:,} of {self.file_bytes:,}", CUT_OFF)
        if end > MAX_HEADER_BYTES:
            self.refuse(f"the header is longer than {MAX_HEADER_BYTES:,} bytes")
        raise NeedMoreBytesError

    def take(self, n_bytes: int, what: str) -> bytes:
        """Return the next `n_bytes`."""
        self.need(n_bytes, what)
        start, self.position = self.position, self.position + n_bytes
        return self.data[start : self.position]

    def u32(self, what: str) -> int:
        """Return the next 4 bytes as a number."""
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        """Return the next 8 bytes as a number."""
        return int.from_bytes(self.take(8, what), "little")

    def string(self, what: str) -> bytes:
        """Return a string, undecoded."""
        return self.take(self.u64(f"length of {what}"), what)

    def strings(self, count: int, what: str) -> list[str]:
        """Return `count` strings: the one loop that runs 300,000 times a file, so it works on locals."""
        data, at, unpack, size = self.data, self.position, struct.Struct("<Q").unpack_from, len(self.data)
        raw: list[bytes] = []
        for _ in range(count):
            start = at + 8
            if start > size:
                self.position = at
                self.need(8, f"length of {what}")
            at = start + unpack(data, at)[0]
            if at > size:
                self.position = start
                self.need(at - start, what)
            raw.append(data[start:at])
        self.position = at
        return _decoded(raw)

    def numbers(self, value_type: GgufValueType, count: int, what: str) -> NDArray[np.generic]:
        """Return `count` numbers of one type, as an array of its own."""
        dtype = np.dtype(NUMBER_FORMATS[value_type])
        raw = self.take(count * dtype.itemsize, what)
        if value_type is GgufValueType.BOOL and raw.strip(b"\0\1"):
            self.refuse(f"{what}: a BOOL is neither 0 nor 1")
        return np.frombuffer(raw, dtype)


def _decoded(raw: list[bytes]) -> list[str]:
    """Decode all strings in one call, which takes a fifth of the time, unless one of them holds the separator."""
    values = b"\0".join(raw).decode("utf-8", "surrogateescape").split("\0")
    return values if len(values) == len(raw) else [value.decode("utf-8", "surrogateescape") for value in raw]
