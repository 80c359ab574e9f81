"""Anonymous memory for expert slots: reserved in full, paid for page by page.

A region reserves addresses for every expert of a layer; the kernel gives memory to pages when they are first written.
So a pool can grow in place, its tensors never move, and giving slots back is one madvise. Pages of a pool are asked to
be huge (2 MiB): experts are read from end to end, and the translation of small pages is a tenth of that time.

Knows nothing of what lies in the slots.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from contextlib import suppress

PAGE_BYTES = 4096
_HUGE_BYTES = 2 << 20
_MADV_HUGEPAGE = 14
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class SlotMemory:
    """`n_slots` × `slot_bytes` of private anonymous memory, zero until written.

    Args:
        slot_bytes: a multiple of the page size.
        n_slots: how many slots have addresses.

    Raises:
        MemoryError: the address space or the overcommit rule of this machine does not allow it.
    """

    def __init__(self, slot_bytes: int, n_slots: int) -> None:
        if slot_bytes % PAGE_BYTES or slot_bytes <= 0 or n_slots <= 0:
            raise ValueError(f"{n_slots} slots of {slot_bytes} bytes: not whole pages")
        self.slot_bytes, self.n_slots = slot_bytes, n_slots
        self.n_bytes = slot_bytes * n_slots
        # Huge pages need addresses at their own multiples, so a little more is reserved than used.
        self._map = _reserve(self.n_bytes + _HUGE_BYTES)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.address = -(-start // _HUGE_BYTES) * _HUGE_BYTES
        self._offset = self.address - start

    def slot(self, index: int) -> int:
        """Return the address of a slot."""
        return self.address + index * self.slot_bytes

    def prefer_huge_pages(self, n_slots: int) -> None:
        """Ask for huge pages under the first `n_slots`: whole ones only, so no more memory is taken than is used."""
        whole = n_slots * self.slot_bytes // _HUGE_BYTES * _HUGE_BYTES
        if whole and sys.platform == "linux":
            with suppress(OSError):  # a kernel without huge pages
                self._map.madvise(_MADV_HUGEPAGE, self._offset, whole)

    def release(self, first: int, last: int) -> None:
        """Give the memory of slots first..last-1 back to the system; they read as zeros again."""
        if last > first and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(
                mmap.MADV_DONTNEED, self._offset + first * self.slot_bytes, (last - first) * self.slot_bytes
            )


def _reserve(n_bytes: int) -> mmap.mmap:
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, n_bytes)
        return mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
    except OSError as error:
        raise MemoryError(f"no {n_bytes} bytes of address space: {error.strerror}") from error
