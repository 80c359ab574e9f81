"""Which graphics cards are here, asked of drivers in milliseconds, without llama.cpp: for a first look.

NVIDIA's by NVML (libnvidia-ml, "NVML API Reference": nvmlInit_v2 … nvmlDeviceGetMemoryInfo), AMD's by what amdgpu
writes into /sys (mem_info_vram_total, mem_info_vram_used).
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NVML = "libnvidia-ml.so.1"
_NAME_BYTES = 96
_BACKENDS = ("cuda", "hip", "vulkan", "sycl", "metal")


@dataclass(frozen=True, slots=True)
class Card:
    """A card, and its memory."""

    name: str
    total_bytes: int
    free_bytes: int


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def find_cards(root: Path = Path("/"), load: Callable[[str], Any] = ctypes.CDLL) -> tuple[Card, ...]:
    """Return the cards; none where there is no driver, or one that does not answer.

    Args:
        root: where /sys is looked for.
        load: opens a library by its name.
    """
    return (*_nvidia(load), *_amd(root))


def built_for_cards() -> bool:
    """Tell whether llama.cpp, as it was built here, has code for any cards: by its files, without loading it."""
    spec = importlib.util.find_spec("llama_cpp")
    folders = (spec.submodule_search_locations or []) if spec else []
    names = [path.name for folder in folders for path in (Path(folder) / "lib").glob("*ggml-*")]
    return any(backend in name for name in names for backend in _BACKENDS)


def _nvidia(load: Callable[[str], Any]) -> list[Card]:
    try:
        nvml = load(_NVML)
    except OSError:
        return []
    count, handle, memory = ctypes.c_uint(), ctypes.c_void_p(), _Memory()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return []
    cards = []
    for index in range(count.value):
        if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)):
            continue
        if nvml.nvmlDeviceGetName(handle, name, ctypes.c_uint(_NAME_BYTES)):
            continue
        if not nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
            cards.append(Card(name.value.decode(errors="replace"), memory.total, memory.free))
    nvml.nvmlShutdown()
    return cards


def _amd(root: Path) -> list[Card]:
    cards = []
    for total in sorted((root / "sys/class/drm").glob("card*/device/mem_info_vram_total")):
        try:
            n_total = int(total.read_text())
            n_used = int(total.with_name("mem_info_vram_used").read_text())
            product = total.with_name("product_name")
            name = product.read_text().strip() if product.is_file() else ""
        except (OSError, ValueError):
            continue
        cards.append(Card(name or "AMD graphics card", n_total, n_total - n_used))
    return cards
