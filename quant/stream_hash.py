"""Hash files of a source while they are read in order, from where an earlier run has stopped.

Knows nothing of where they come from, nor of what is in them but the header that planning has seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from quant.errors import CheckpointError, DamagedSource
from quant.journal import ReadMark
from quant.resumable_sha256 import Sha256, begin_sha256
from quant.source_files import SourceFiles
from quant.stream_spans import Span


class StreamedFiles(SourceFiles, Protocol):
    """Files that come from elsewhere, each with a hash that its publisher gives."""

    def sha256(self, path: Path) -> str:
        """Return that hash, in hexadecimal.

        Raises:
            CheckpointError: it is not known.
        """
        ...

    def header_sha256(self, path: Path) -> str:
        """Return the SHA-256 of the file's beginning, up to the first tensor, as planning has read it."""
        ...

    def fetch(self, path: Path, offset_bytes: int, out: memoryview) -> None:
        """Fill `out`, one byte an element, from `offset_bytes` on; called from several threads at once.

        Raises:
            Exception: it cannot be had, for good.
        """
        ...


class SpanHasher:
    """Hashes spans, each file's in order.

    Args:
        files: what is read.
        marks: how far earlier runs have read, by name of the file.
    """

    def __init__(self, files: StreamedFiles, marks: Mapping[str, ReadMark]) -> None:
        self._files = files
        self._marks = marks
        self._hash: Sha256 | None = None  # of the file that is being read

    def hash(self, span: Span, data: memoryview) -> ReadMark | None:
        """Return the mark at the end of a span; None where the hash has no state that could be recorded.

        Raises:
            CheckpointError: the header is not the one that the plan was made from.
            DamagedSource: the file is at its end, and has another hash than it should.
        """
        path = span.path
        if span.first_byte == 0 and hashlib.sha256(data).hexdigest() != self._files.header_sha256(path):
            raise CheckpointError(f"{path.name}: its header is not the one that was read first", "run it again")
        if self._hash is None:
            self._hash = begin_sha256(bytes.fromhex(self._marks[path.name].hash_state) if span.first_byte else None)
        self._hash.update(data)
        if span.after_byte < self._files.size_bytes(path):
            state = self._hash.state
            return None if state is None else ReadMark(span.after_byte, state.hex())
        found, expected = self._hash.hexdigest(), self._files.sha256(path)
        self._hash = None
        if found != expected:
            raise DamagedSource(path, expected, found)
        return ReadMark(span.after_byte, found)
