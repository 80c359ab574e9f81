"""The lines of a batch's input file, one at a time: a million of them take no more memory than the longest.

Knows bytes and line numbers; what a line says is batch_request.py's.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qwenctl.errors import InvalidRequest

MAX_LINE_BYTES = 64 << 20
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class InputLine:
    """A line that is not blank."""

    number: int  # from 1, blank lines counted
    data: bytes | None  # without the line break; None: longer than MAX_LINE_BYTES
    sha256: str  # of all its bytes
    n_bytes: int  # what it takes in the file


class BatchInput:
    """A file of lines that can be read several times.

    Raises:
        InvalidRequest: it is missing, unreadable, or no regular file.
    """

    def __init__(self, path: Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self.path = path
        self.max_line_bytes = max_line_bytes
        if path.exists() and not path.is_file():
            raise InvalidRequest(f"{path} is not a regular file", "a batch reads it more than once: save it first")
        with self._opened():
            pass

    def count(self) -> int:
        """Return the number of lines, blank ones included; reads at the speed of the disk."""
        n_breaks, last = 0, b"\n"
        with self._opened() as file:
            while chunk := file.read(_CHUNK_BYTES):
                n_breaks += chunk.count(b"\n")
                last = chunk[-1:]
        return n_breaks + (last != b"\n")

    @property
    def n_bytes(self) -> int:
        """The size of the file."""
        return self.path.stat().st_size

    def lines(self) -> Iterator[InputLine]:
        """Read the lines in order, without the blank ones."""
        with self._opened() as file:
            number = 0
            while data := file.readline(self.max_line_bytes + 1):
                number += 1
                n_bytes = len(data)
                if number == 1:
                    data = data.removeprefix(codecs.BOM_UTF8)
                if len(data) > self.max_line_bytes and not data.endswith(b"\n"):
                    digest, n_more = _skip_line(file, data)
                    yield InputLine(number, None, digest, n_bytes + n_more)
                elif data.strip():
                    data = data.rstrip(b"\r\n")
                    yield InputLine(number, data, hashlib.sha256(data).hexdigest(), n_bytes)

    def _opened(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise InvalidRequest(f"cannot read {self.path}: {error.strerror}") from error


def _skip_line(file: BinaryIO, begin: bytes) -> tuple[str, int]:
    """Read up to the end of a line that began with `begin`; return the digest of all of it, and the bytes read."""
    digest, n_bytes = hashlib.sha256(begin), 0
    while piece := file.readline(_CHUNK_BYTES):
        digest.update(piece)
        n_bytes += len(piece)
        if piece.endswith(b"\n"):
            break
    return digest.hexdigest(), n_bytes
