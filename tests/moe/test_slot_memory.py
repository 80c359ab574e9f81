"""Memory of slots: addresses for all, pages for those in use."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import pytest

from qwenctl.moe.slot_memory import PAGE_BYTES, SlotMemory


def _bytes_at(address: int, n_bytes: int) -> bytes:
    return ctypes.string_at(address, n_bytes)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(("slot_bytes", "n_slots"), [(0, 1), (4095, 1), (4097, 1), (-4096, 1), (4096, 0)])
def test_slots_are_whole_pages(slot_bytes: int, n_slots: int) -> None:
    with pytest.raises(ValueError, match="not whole pages"):
        SlotMemory(slot_bytes, n_slots)


def test_slots_follow_each_other_and_read_as_zeros() -> None:
    memory = SlotMemory(2 * PAGE_BYTES, 3)
    assert memory.n_bytes == 6 * PAGE_BYTES
    assert memory.address % (2 << 20) == 0
    assert [memory.slot(index) - memory.address for index in range(3)] == [0, 8192, 16384]
    assert _bytes_at(memory.address, memory.n_bytes) == bytes(memory.n_bytes)
    ctypes.memset(memory.slot(1), 7, 2 * PAGE_BYTES)
    assert _bytes_at(memory.slot(0), 8192) == _bytes_at(memory.slot(2), 8192) == bytes(8192)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_addresses_cost_nothing_and_released_slots_are_given_back() -> None:
    size = 4 << 20
    before = _resident_bytes()
    memory = SlotMemory(size, 1000)  # 4 GB
    memory.prefer_huge_pages(16)
    assert _resident_bytes() - before < 8 << 20
    for index in range(16):
        ctypes.memset(memory.slot(index), 1, size)
    assert _resident_bytes() - before > 60 << 20
    memory.release(4, 16)
    assert _resident_bytes() - before < 24 << 20
    assert _bytes_at(memory.slot(3), size) == b"\1" * size
    assert _bytes_at(memory.slot(4), size) == bytes(size)
    memory.release(3, 3)
    assert _bytes_at(memory.slot(3), 1) == b"\1"
