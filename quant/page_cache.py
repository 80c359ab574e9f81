"""Advice to the kernel about files that are read or written once: a converted model evicts everything else otherwise.

Advice never fails and never changes what is read. On systems without posix_fadvise (macOS, Windows) nothing happens.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_CAN_ADVISE = hasattr(os, "posix_fadvise")


def drop_from_cache(fd: int, offset_bytes: int, n_bytes: int) -> None:
    """Say that a range will not be used again. Whole clean pages are dropped: sync first what was written."""
    if _CAN_ADVISE:
        _advise(fd, offset_bytes, n_bytes, os.POSIX_FADV_DONTNEED)


def _advise(fd: int, offset_bytes: int, n_bytes: int, advice: int) -> None:
    with suppress(OSError):  # file systems need not know it
        os.posix_fadvise(fd, offset_bytes, n_bytes, advice)


class SourceCache:
    """Source files of which each byte is read once, in about ascending order.

    Args:
        paths: the files; their descriptors are its own.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._descriptors = {path: os.open(path, os.O_RDONLY) for path in set(paths)} if _CAN_ADVISE else {}

    def will_read(self, path: Path, offset_bytes: int, n_bytes: int) -> None:
        """Let the kernel start to read a range."""
        if _CAN_ADVISE:
            _advise(self._descriptors[path], offset_bytes, n_bytes, os.POSIX_FADV_WILLNEED)

    def was_read(self, path: Path, offset_bytes: int, n_bytes: int) -> None:
        """Let the kernel drop a range."""
        if _CAN_ADVISE:
            drop_from_cache(self._descriptors[path], offset_bytes, n_bytes)

    def close(self) -> None:
        """Close the files."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
