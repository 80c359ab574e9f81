"""Which of millions of names were seen, and a number for each, in 16 bytes a slot: a dict would take six times that.

Names are kept as 64-bit fingerprints: among a million, two different ones are taken for the same with a chance of 3e-8.
"""

from __future__ import annotations

import hashlib
from array import array

_FIRST_SIZE = 1 << 10


def fingerprint(data: bytes) -> int:
    """Return 64 bits of the SHA-256 of `data`, never 0."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little") or 1


class FingerprintTable:
    """Maps fingerprints (1 … 2^64-1) to numbers (0 … 2^64-1); open addressing, at most two thirds full."""

    def __init__(self) -> None:
        self._keys = array("Q", bytes(8 * _FIRST_SIZE))  # 0: free
        self._values = array("Q", bytes(8 * _FIRST_SIZE))
        self._n_used = 0

    def __len__(self) -> int:
        return self._n_used

    def __contains__(self, key: int) -> bool:
        return self._keys[self._slot(key)] == key

    def get(self, key: int) -> int | None:
        """Return the number of `key`, None without one."""
        slot = self._slot(key)
        return self._values[slot] if self._keys[slot] == key else None

    def put(self, key: int, value: int) -> None:
        """Set the number of `key`."""
        if 3 * self._n_used >= 2 * len(self._keys):
            self._grow()
        slot = self._slot(key)
        self._n_used += self._keys[slot] == 0
        self._keys[slot], self._values[slot] = key, value

    def _slot(self, key: int) -> int:
        """Return where `key` is, or the free slot where it belongs."""
        mask = len(self._keys) - 1
        slot = key & mask
        while self._keys[slot] not in (0, key):
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        keys, values = self._keys, self._values
        self._keys = array("Q", bytes(2 * keys.itemsize * len(keys)))
        self._values = array("Q", bytes(2 * values.itemsize * len(values)))
        for key, value in zip(keys, values, strict=True):
            if key:
                slot = self._slot(key)
                self._keys[slot], self._values[slot] = key, value
