"""Hashes of whole files on this disk, read once and in order. Knows nothing of where they came from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from qwenctl.services.hub.content_hash import ContentHash
from qwenctl.services.hub.remote_file import RemoteFile

_BLOCK_BYTES = 4 << 20

OnBytes = Callable[[int], None]
"""Called with the number of bytes that have just been dealt with."""


def sha256_of(path: Path, on_bytes: OnBytes = lambda _: None) -> str:
    """Return the SHA-256 of the file in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    for block in _blocks(path, on_bytes):
        digest.update(block)
    return digest.hexdigest()


def holds(path: Path, remote: RemoteFile, on_bytes: OnBytes = lambda _: None) -> bool:
    """Tell whether the file is `remote`, by length and by the hash that the hub names.

    Raises:
        OSError: it cannot be read.
    """
    if path.stat().st_size != remote.n_bytes:
        return False
    found = ContentHash(remote)
    for block in _blocks(path, on_bytes):
        found.update(block)
    return found.fits


def _blocks(path: Path, on_bytes: OnBytes) -> Iterator[memoryview]:
    block = memoryview(bytearray(_BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while n_read := file.readinto(block):
            yield block[:n_read]
            on_bytes(n_read)
