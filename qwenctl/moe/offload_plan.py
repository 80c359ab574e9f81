"""What sizing is asked and what it answers: values, and how they are shown. No arithmetic of the placement itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from qwenctl.moe.device_budget import DeviceBudget, DevicePlan
from qwenctl.moe.prefill_rates import PrefillRates
from qwenctl.units import format_memory

_LAYOUT_NAMES = {"plain": "the file's layout", "repack": "repacked", "amx": "AMX layout"}


@dataclass(frozen=True, slots=True)
class OffloadRequest:
    """What is to be run, and what the user decided.

    Raises:
        ValueError: a count below one.
    """

    n_cells: int  # of a stream of the KV cache
    n_streams: int = 1
    n_outputs: int = 1  # tokens with logits at once
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attention: bool | None = None  # None: where the scores would be large
    n_batch: int = 2048  # most tokens handed over at once: no micro-batch is larger
    n_ubatch: int | None = None  # None: chosen
    ram_bytes: int | None = None  # None: what is available
    vram_bytes: int | None = None
    n_gpu_layers: int | None = None
    split: tuple[float, ...] | None = None  # of layers over the devices; None: by free memory
    n_slots: int | None = None  # in every layer; None: what fits
    n_io_threads: int = 4
    reserved_bytes: int = 0  # that the caller takes for itself
    wave_rows: int = 2048  # pairs of token and expert that one graph computes at most
    layout: str = "plain"  # for the summary; ModelSize has its bytes
    rates: PrefillRates = field(default_factory=PrefillRates)

    def __post_init__(self) -> None:
        for name in ("n_cells", "n_streams", "n_outputs", "n_batch", "n_io_threads", "wave_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class MemoryParts:
    """Bytes of main memory by what they are for."""

    margin: int
    base: int
    dense: int
    kv: int
    compute: int
    staging: int
    scratch: int
    ring: int
    experts: int

    @property
    def total_bytes(self) -> int:
        """The sum."""
        return sum(getattr(self, part.name) for part in fields(self))


@dataclass(frozen=True, slots=True)
class OffloadPlan:
    """Who gets what. `parts` and `free_bytes` add up to `budget_bytes`."""

    budget_bytes: int
    parts: MemoryParts
    n_experts: int
    n_slots: tuple[int, ...]  # of each layer with experts
    slot_bytes: tuple[int, ...]
    ring_slots: int  # each as large as the largest slot
    n_ubatch: int
    flash_attention: bool
    layout: str
    stock_fits: bool  # the file as llama.cpp maps it would stay in memory
    devices: DevicePlan

    @property
    def free_bytes(self) -> int:
        """What no part has."""
        return self.budget_bytes - self.parts.total_bytes

    @property
    def resident(self) -> bool:
        """Whether every expert has a slot: after its first use nothing is read."""
        return min(self.n_slots) == self.n_experts

    def summary(self) -> str:
        """Return the line for people: what is where."""
        held = format_memory(self.parts.experts)
        where = f"{held} of RAM ({_LAYOUT_NAMES.get(self.layout, self.layout)})"
        low, high = min(self.n_slots), max(self.n_slots)
        few = f"{low}" if low == high else f"{low}-{high}"
        experts = f"all {self.n_experts} a layer in {where}"
        if not self.resident:
            experts = f"{few} of {self.n_experts} a layer in {where}, the others read from disk"
        placed = [f"{one.n_slots} a layer on {one.name}" for one in self.devices.budgets if one.n_slots]
        parts = [
            f"experts: {', '.join([experts, *placed])}",
            f"dense part {format_memory(self.parts.dense)} resident",
            *_dense_on_devices(self.devices.budgets),
            f"micro-batch {self.n_ubatch}",
        ]
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        """Return everything, for --json and --stats."""
        return {
            "budget_bytes": self.budget_bytes,
            **{f"{name}_bytes": size for name, size in asdict(self.parts).items()},
            "free_bytes": self.free_bytes,
            "n_experts": self.n_experts,
            "n_slots": list(self.n_slots),
            "ring_slots": self.ring_slots,
            "n_ubatch": self.n_ubatch,
            "flash_attention": self.flash_attention,
            "layout": self.layout,
            "resident": self.resident,
            "stock_fits": self.stock_fits,
            "n_gpu_layers": self.devices.n_gpu_layers,
            "devices": [asdict(budget) for budget in self.devices.budgets],
        }


def _dense_on_devices(budgets: tuple[DeviceBudget, ...]) -> list[str]:
    return [f"{format_memory(one.dense_bytes + one.kv_bytes)} on {one.name}" for one in budgets if one.dense_bytes]
