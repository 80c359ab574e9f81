"""Published figures of common hardware, and the shares of them that llama.cpp reaches.

Cards: memory, its bandwidth and the dense f16 tensor rate (f16 accumulation for GeForce) as NVIDIA's data sheets and
architecture white papers have them (GA102, AD102, Blackwell; A100, H100, H200, L40S, A6000); PCIe as its specification,
one direction, 16 lanes unless the card has 8. Main memory: channels × transfer rate × 8 bytes (JEDEC). NVMe: what
drives of the generation read in large pieces.

Shares, from published runs of llama.cpp: an RTX 4090 with an 8B model in Q4_0 and 32k tokens in the cache makes 102.8
tokens/s, 0.91 of its bandwidth, an RTX 3090 0.81 (pull request 17505), and prompts of 47 and 29-35 × 10¹² products a
second in 2024 (7716, 7860, 8416), of which later kernels made half as much again. What a layer costs beside is what
remains of tokens/s at short contexts. Cards with HBM reach less of it, since dequantizing bounds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwenctl.planning.machine import GpuRates
from qwenctl.units import GIB

GB = 10**9
_UPLOAD_SHARE = 0.85  # of PCIe's rate
# Of a card, that are never free: what drivers keep (an H200 shows llama.cpp 616 MiB less than it has, a 4090 about 500)
# and the context of this process (526 MiB on the H200).
_DRIVER_BYTES = 1000 << 20


@dataclass(frozen=True, slots=True)
class Card:
    """One card's published figures and the shares that llama.cpp reaches."""

    name: str
    gib: float
    bandwidth_gb_s: float
    f16_tflops: float
    pcie_gb_s: float
    read_share: float = 0.85
    arithmetic_share: float = 0.5
    layer_us: float = 45.0

    @property
    def total_bytes(self) -> int:
        """Its memory."""
        return int(self.gib * GIB)

    @property
    def free_bytes(self) -> int:
        """What a program finds free."""
        return self.total_bytes - _DRIVER_BYTES

    @property
    def rates(self) -> GpuRates:
        """What it does in a second."""
        return GpuRates(
            read_bytes_s=self.bandwidth_gb_s * GB * self.read_share,
            macs_s=self.f16_tflops * 1e12 / 2 * self.arithmetic_share,
            layer_s=self.layer_us * 1e-6,
            upload_bytes_s=self.pcie_gb_s * GB * _UPLOAD_SHARE,
        )


CARDS: Mapping[str, Card] = {
    card.name.lower().replace(" ", ""): card
    for card in (
        Card("RTX 3060", 12, 360, 51, 31.5),
        Card("RTX 3090", 24, 936, 142, 31.5),
        Card("RTX 4060 Ti 16", 16, 288, 88, 15.8),
        Card("RTX 4070", 12, 504, 117, 31.5),
        Card("RTX 4080", 16, 717, 195, 31.5),
        Card("RTX 4090", 24, 1008, 330, 31.5, read_share=0.92),
        Card("RTX 5070 Ti", 16, 896, 176, 63.0),
        Card("RTX 5080", 16, 960, 225, 63.0),
        Card("RTX 5090", 32, 1792, 419, 63.0),
        Card("RTX A6000", 48, 768, 155, 31.5),
        Card("L40S", 48, 864, 362, 31.5, arithmetic_share=0.4),
        Card("A100", 80, 2039, 312, 31.5, read_share=0.7, arithmetic_share=0.3, layer_us=70),
        Card("A100-40", 40, 1555, 312, 31.5, read_share=0.7, arithmetic_share=0.3, layer_us=70),
        Card("H100", 80, 3350, 989, 63.0, read_share=0.7, arithmetic_share=0.2, layer_us=70),
        Card("H200", 141, 4800, 989, 63.0, read_share=0.7, arithmetic_share=0.2, layer_us=70),
    )
}
_ALIASES = {
    "a100-80": "a100",
    "a100-80gb": "a100",
    "a100-40gb": "a100-40",
    "h100-80": "h100",
    "h100-80gb": "h100",
    "a6000": "rtxa6000",
    **{name.removeprefix("rtx"): name for name in CARDS if name.startswith("rtx")},
}

# A card of which only its memory is said is the oldest of the common ones, so that nobody is promised too much.
_BY_MEMORY = ("rtx3060", "rtx4060ti16", "rtx3090", "rtx5090", "a100-40", "rtxa6000", "a100", "h200")

MEMORIES: Mapping[str, tuple[float, str]] = {
    "ddr4": (51.2, "DDR4-3200, two channels"),
    "ddr5": (89.6, "DDR5-5600, two channels"),
    "epyc-ddr4": (204.8, "DDR4-3200, eight channels"),
    "epyc-ddr5": (460.8, "DDR5-4800, twelve channels"),
    "xeon-ddr5": (307.2, "DDR5-4800, eight channels"),
}
"""GB/s and what it is, by name."""

DISKS: Mapping[str, float] = {"sata": 0.5, "nvme3": 3.2, "nvme4": 6.5, "nvme5": 12.0}
"""GB/s of reading in large pieces, by name."""

# Of main memory's bandwidth, what products of one token reach; where cores bound, 11 to 15 GB/s on two of a server, 49
# on sixteen.
RAM_READ_SHARE = 0.65
CORE_READ_BYTES_S = 5e9  # that one core gets through: unpacking four bits bounds it
CORE_MACS_S = ((1.0, 9e9), (32.0, 30e9), (512.0, 45e9))  # of one core, AVX2, by tokens an expert
CORE_DENSE_MACS_S = 45e9
CPU_LAYER_S = 60e-6


def find_card(name: str) -> Card | None:
    """Return the card that `name` means, in any case, with or without blanks and RTX; None: not in the table."""
    key = _key(name)
    return CARDS.get(key) or CARDS.get(_ALIASES.get(key, ""))


def described_card(description: str) -> Card | None:
    """Return the card that a driver calls so: "NVIDIA H100 80GB HBM3"; None: not in the table."""
    key = _key(description)
    names = sorted({**CARDS, **_ALIASES}, key=len, reverse=True)
    return next((find_card(name) for name in names if key.startswith(name)), None)


def card_of_memory(n_bytes: int) -> Card:
    """Return a card of so much memory: the rates are those of the smallest common one that has as much."""
    known = [CARDS[name] for name in _BY_MEMORY]
    return next((card for card in known if card.total_bytes >= n_bytes), known[-1])


def _key(name: str) -> str:
    return name.lower().replace(" ", "").removeprefix("nvidia").removeprefix("geforce")
