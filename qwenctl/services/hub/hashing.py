"""The hash of a whole file on this disk, read once and in order. Knows nothing of hubs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

_BLOCK_BYTES = 4 << 20

OnBytes = Callable[[int], None]
"""Called with the number of bytes that have just been dealt with."""


def sha256_of(path: Path, on_bytes: OnBytes = lambda _: None) -> str:
    """Return the SHA-256 of the file in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    return _digest(path, "sha256", b"", on_bytes)


def git_oid_of(path: Path) -> str:
    """Return git's object name of the file: SHA-1 of "blob", its length and its bytes (git's gitformat-pack)."""
    return _digest(path, "sha1", b"blob %d\0" % path.stat().st_size, lambda _: None)


def _digest(path: Path, algorithm: str, prefix: bytes, on_bytes: OnBytes) -> str:
    digest = hashlib.new(algorithm, prefix, usedforsecurity=False)
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while n_read := file.readinto(block):
            digest.update(block[:n_read])
            on_bytes(n_read)
    return digest.hexdigest()
