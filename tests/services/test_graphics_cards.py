"""Graphics cards at a glance: from a library that answers as NVML does, and from files as amdgpu writes them."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from qwenctl.services.graphics_cards import Card, find_cards

GIB = 1 << 30


class FakeNvml:
    """Two cards, the second of which does not answer."""

    def __init__(self, init: int = 0) -> None:
        self.init, self.closed = init, False

    def nvmlInit_v2(self) -> int:
        return self.init

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, _handle: Any) -> int:
        return 0 if index.value == 0 else 15

    def nvmlDeviceGetName(self, _handle: Any, name: Any, _length: Any) -> int:
        name.value = b"NVIDIA GeForce RTX 4090"
        return 0

    def nvmlDeviceGetMemoryInfo(self, _handle: Any, memory: Any) -> int:
        memory._obj.total, memory._obj.free = 24 * GIB, 23 * GIB
        return 0

    def nvmlShutdown(self) -> int:
        self.closed = True
        return 0


def no_library(name: str) -> Any:
    raise OSError(name)


def test_nvidia(tmp_path: Path) -> None:
    nvml = FakeNvml()
    assert find_cards(tmp_path, lambda _: nvml) == (Card("NVIDIA GeForce RTX 4090", 24 * GIB, 23 * GIB),)
    assert nvml.closed
    assert find_cards(tmp_path, lambda _: FakeNvml(init=9)) == ()
    assert find_cards(tmp_path, no_library) == ()


def test_amd(tmp_path: Path) -> None:
    for number, facts in enumerate(({"total": "17179869184", "used": "1073741824"}, {"total": "no number"})):
        folder = tmp_path / f"sys/class/drm/card{number}/device"
        folder.mkdir(parents=True)
        for name, text in facts.items():
            (folder / f"mem_info_vram_{name}").write_text(text + "\n")
    assert find_cards(tmp_path, no_library) == (Card("AMD graphics card", 16 * GIB, 15 * GIB),)


def test_whatever_is_here_is_found_without_an_error() -> None:
    assert all(card.total_bytes >= card.free_bytes >= 0 for card in find_cards(load=ctypes.CDLL))
