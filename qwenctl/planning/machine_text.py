"""Descriptions of machines: "4x24GiB,128GiB ram,7GB/s disk", "RTX 4090,128GiB ddr5,nvme4", or a name from a table.

    [N x] SIZE              N devices of so much memory; rates of a common card of that size
    [N x] CARD              devices by name: RTX 4090, A100, H100 (hardware.py)
    SIZE ram                main memory; SIZE ddr5 says which, too
    RATE ram, RATE disk, RATE pcie     7GB/s; nvme3, nvme4, nvme5, sata name disks
    N cores                 of the processor

Items are separated by commas, in any order and case. What is not said is assumed, and the plan says so. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from qwenctl.errors import InvalidRequest
from qwenctl.moe.machine_memory import DeviceMemory, MachineMemory
from qwenctl.moe.prefill_rates import PrefillRates
from qwenctl.planning.hardware import (
    CORE_DENSE_MACS_S,
    CORE_MACS_S,
    CORE_READ_BYTES_S,
    CPU_LAYER_S,
    DISKS,
    GB,
    MEMORIES,
    RAM_READ_SHARE,
    Card,
    card_of_memory,
    find_card,
)
from qwenctl.planning.machine import CpuRates, Machine
from qwenctl.units import GIB, format_memory, parse_bytes

MACHINES: Mapping[str, str] = {
    "laptop-16": "16GiB ram,8 cores,ddr5,nvme4",
    "desktop-64": "64GiB ram,16 cores,ddr5,nvme4",
    "3060-64": "RTX 3060,64GiB ram,12 cores,ddr4,nvme4",
    "4090-128": "RTX 4090,128GiB ram,16 cores,ddr5,nvme4",
    "4x4090": "4xRTX 4090,256GiB ram,32 cores,epyc-ddr4,nvme4",
    "a100": "A100,256GiB ram,32 cores,epyc-ddr4,nvme4",
    "2xa100": "2xA100,512GiB ram,64 cores,epyc-ddr4,nvme4",
    "8xh100": "8xH100,2TiB ram,96 cores,xeon-ddr5,nvme4",
}
"""Machines that people ask about, by name."""

BAND = 0.4
"""What estimates are within, as a rule: scripts/check_plan_published.py has what they were held against."""

_SYSTEM_BYTES = 2 * GIB  # of main memory, that the system and other programs hold
_MOST_DEVICES = 64
_USUAL_CORES, _USUAL_MEMORY, _USUAL_DISK = 8, "ddr5", "nvme3"
_EXAMPLE = 'as in "4x24GiB,128GiB ram,7GB/s disk"'
_COUNT = re.compile(r"(\d{1,3})\s*[x×]\s*(.+)")
_RATE = re.compile(r"(.+)/s\s*(ram|disk|pcie)")
_SIZE = re.compile(r"(\d[\d.]*\s*[kmgt]i?b?)\s*(\S.*)?")
_CORES = re.compile(r"(\d{1,4})\s*cores?")


def parse_machine(text: str) -> Machine:
    """Return the machine that `text` describes or names.

    Raises:
        InvalidRequest: an item that means nothing, or no main memory.
    """
    said = _Said()
    for item in MACHINES.get(text.strip().lower(), text).split(","):
        said.take(item.strip())
    return said.machine(text.strip())


@dataclass(slots=True)
class _Said:
    """What the items said so far."""

    cards: list[Card] = field(default_factory=list)
    ram_bytes: int | None = None
    ram_bytes_s: float | None = None
    disk_bytes_s: float | None = None
    pcie_bytes_s: float | None = None
    n_cores: int | None = None

    def take(self, item: str) -> None:
        """Note an item."""
        lower = item.lower()
        if match := _RATE.fullmatch(lower):
            self._rate(item, match[1], match[2])
        elif match := _CORES.fullmatch(lower):
            self.n_cores = int(match[1])
            if not self.n_cores:
                raise InvalidRequest(f"--machine: {item!r}: a processor has a core at least")
        elif (name := lower.removesuffix("disk").strip()) in DISKS:
            self.disk_bytes_s = DISKS[name] * GB
        elif (name := lower.removesuffix("ram").strip()) in MEMORIES:
            self.ram_bytes_s = MEMORIES[name][0] * GB
        elif not self._main_memory(item, lower):
            self._devices(item, lower)

    def _rate(self, item: str, text: str, what: str) -> None:
        rate = float(_bytes(item, text))
        if what == "ram":
            self.ram_bytes_s = rate
        elif what == "disk":
            self.disk_bytes_s = rate
        else:
            self.pcie_bytes_s = rate

    def _main_memory(self, item: str, lower: str) -> bool:
        match = _SIZE.fullmatch(lower)
        kind = (match[2] or "").removesuffix(" ram") if match else ""
        if match is None or not (kind == "ram" or kind in MEMORIES):
            return False
        if self.ram_bytes is not None:
            raise InvalidRequest(f"--machine: main memory twice: {item!r}", f"say it once, {_EXAMPLE}")
        self.ram_bytes = _bytes(item, match[1])
        if kind in MEMORIES:
            self.ram_bytes_s = MEMORIES[kind][0] * GB
        return True

    def _devices(self, item: str, lower: str) -> None:
        counted = _COUNT.fullmatch(lower)
        count, name = (int(counted[1]), counted[2].strip()) if counted else (1, lower)
        size = _SIZE.fullmatch(name)
        if size and size[2] in (None, "gpu", "vram", "card", "cards"):
            n_bytes = _bytes(item, size[1])
            card: Card | None = replace(card_of_memory(n_bytes), name=format_memory(n_bytes), gib=n_bytes / GIB)
        else:
            card = find_card(name)
        if card is None:
            raise InvalidRequest(f"--machine: {item!r} is neither a size, a rate nor a known card", _hint())
        if not 1 <= count <= _MOST_DEVICES - len(self.cards):
            raise InvalidRequest(f"--machine: {item!r}: 1 to {_MOST_DEVICES} devices can be planned for")
        self.cards += [card] * count

    def machine(self, name: str) -> Machine:
        """Return the machine."""
        if self.ram_bytes is None:
            raise InvalidRequest(f"--machine: {name!r} says nothing of main memory", f"add it, {_EXAMPLE}")
        assumptions = self._assume()
        cards = self.cards
        rates = [card.rates for card in cards]
        if self.pcie_bytes_s:
            rates = [replace(one, upload_bytes_s=self.pcie_bytes_s) for one in rates]
        available = max(0, self.ram_bytes - min(_SYSTEM_BYTES, self.ram_bytes // 8))
        devices = tuple(
            DeviceMemory(f"GPU{index}", card.free_bytes, card.total_bytes) for index, card in enumerate(cards)
        )
        memory = MachineMemory(available, 0, self.ram_bytes, "the machine described", devices=devices)
        return Machine(name, memory, tuple(rates), self._cpu(), BAND, assumptions)

    def _assume(self) -> tuple[str, ...]:
        """Fill in what was not said; return what, in words."""
        said = []
        if self.n_cores is None:
            self.n_cores = _USUAL_CORES
            said.append(f"{_USUAL_CORES} cores")
        if self.ram_bytes_s is None:
            self.ram_bytes_s = MEMORIES[_USUAL_MEMORY][0] * GB
            said.append(f"main memory of {MEMORIES[_USUAL_MEMORY][0]:g} GB/s ({MEMORIES[_USUAL_MEMORY][1]})")
        if self.disk_bytes_s is None:
            self.disk_bytes_s = DISKS[_USUAL_DISK] * GB
            said.append(f"a disk of {DISKS[_USUAL_DISK]:g} GB/s ({_USUAL_DISK})")
        return tuple(said)

    def _cpu(self) -> CpuRates:
        n_cores, ram, disk = self.n_cores or 1, self.ram_bytes_s or 1.0, self.disk_bytes_s or 1.0
        read = min(RAM_READ_SHARE * ram, n_cores * CORE_READ_BYTES_S)
        bytes_a_weight = 0.57  # of Q4_K and Q6_K as they are mixed
        first = min(read / bytes_a_weight, n_cores * CORE_MACS_S[0][1])
        curve = ((1.0, first), *((n_tokens, n_cores * rate) for n_tokens, rate in CORE_MACS_S[1:]))
        return CpuRates(n_cores, read, CPU_LAYER_S, PrefillRates(disk, curve, n_cores * CORE_DENSE_MACS_S))


def _bytes(item: str, text: str) -> int:
    try:
        n_bytes = parse_bytes(text)
    except ValueError as error:
        raise InvalidRequest(f"--machine: {item!r}: {error}", f"write it {_EXAMPLE}") from error
    if n_bytes <= 0:
        raise InvalidRequest(f"--machine: {item!r} is nothing", f"write it {_EXAMPLE}")
    return n_bytes


def _hint() -> str:
    return f"write it {_EXAMPLE}; known machines: {', '.join(MACHINES)}"
