"""Which layers, and how many expert slots of each, go on which device. Pure.

llama.cpp's own way is followed for the dense part (attention, norms, router, KV cache): the last `n_gpu_layers` of a
model's layers, the output counted as one more, are split over the devices in proportion to their free memory
(llama_model::load_tensors). What a device has left then takes expert slots of the layers that it holds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from qwenctl.moe.machine_memory import DeviceMemory
from qwenctl.moe.model_size import ModelSize
from qwenctl.units import MIB

_MARGIN_BYTES = 128 * MIB  # of a device, for its library's own buffers
_MARGIN_SHARE = 32  # and this part of its free memory


@dataclass(frozen=True, slots=True)
class DeviceBudget:
    """One device's part."""

    name: str
    layers: tuple[int, ...]  # layers of the model whose dense part it holds
    has_output: bool
    dense_bytes: int
    kv_bytes: int
    compute_bytes: int
    n_slots: int  # expert slots of each of its layers that have experts
    slots_bytes: int
    free_bytes: int  # that it may take, margin left out

    @property
    def planned_bytes(self) -> int:
        """All that is placed on it."""
        return self.dense_bytes + self.kv_bytes + self.compute_bytes + self.slots_bytes

    @property
    def for_experts_bytes(self) -> int:
        """What experts may take, slots and the work of computing them: more than `slots_bytes`."""
        return self.free_bytes - self.dense_bytes - self.kv_bytes - self.compute_bytes


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """All devices. `n_gpu_layers` is llama.cpp's parameter: 0 nothing, layers + 1 everything."""

    n_gpu_layers: int
    budgets: tuple[DeviceBudget, ...]

    @property
    def dense_bytes(self) -> int:
        """What main memory need not hold of the dense part."""
        return sum(budget.dense_bytes for budget in self.budgets)

    @property
    def kv_bytes(self) -> int:
        """What main memory need not hold of the KV cache."""
        return sum(budget.kv_bytes for budget in self.budgets)


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """What devices are to hold besides weights, and how much of them may be used."""

    kv_bytes: int  # of all layers
    compute_bytes: int  # on each device
    vram_bytes: int | None = None  # of all devices together, shared in proportion to what is free; None: that
    n_gpu_layers: int | None = None  # at most; None or negative: all


def plan_devices(model: ModelSize, devices: Sequence[DeviceMemory], request: DeviceRequest) -> DevicePlan:
    """Return the placement with as many layers on devices as fit; slots of experts take what is left.

    Args:
        model: the sizes of its parts.
        devices: in llama.cpp's order.
        request: what else they hold.
    """
    free = _usable(devices, request.vram_bytes)
    most = model.shape.n_layers + 1
    if request.n_gpu_layers is not None and request.n_gpu_layers >= 0:
        most = min(most, request.n_gpu_layers)
    for count in range(most if sum(free) else 0, 0, -1):
        held = _held_layers(model.shape.n_layers, free, count)
        budgets = tuple(
            _budget(model, request, device.name, room, layers)
            for device, room, layers in zip(devices, free, held, strict=True)
        )
        if all(budget.planned_bytes <= budget.free_bytes for budget in budgets):
            return DevicePlan(count, budgets)
    return DevicePlan(0, ())


def _usable(devices: Sequence[DeviceMemory], vram_bytes: int | None) -> list[int]:
    free = [max(0, one.free_bytes - _MARGIN_BYTES - one.free_bytes // _MARGIN_SHARE) for one in devices]
    total = sum(free)
    if vram_bytes is None or total <= vram_bytes:
        return free
    return [one * vram_bytes // total for one in free]


def _held_layers(n_layers: int, free: Sequence[int], count: int) -> list[list[int]]:
    """Return each device's layers if the last `count` are on devices; the output is layer `n_layers`."""
    first = n_layers + 1 - count
    shares = [part / sum(free) for part in accumulate(free)]
    held: list[list[int]] = [[] for _ in free]
    for layer in range(first, n_layers + 1):
        held[min(bisect_right(shares, (layer - first) / count), len(free) - 1)].append(layer)
    return held


def _budget(
    model: ModelSize, request: DeviceRequest, name: str, free_bytes: int, layers: Sequence[int]
) -> DeviceBudget:
    n_layers = model.shape.n_layers
    inner = tuple(layer for layer in layers if layer < n_layers)
    has_output = n_layers in layers
    dense = len(inner) * model.dense_layer_bytes + (model.output_bytes if has_output else 0)
    kv = -(-request.kv_bytes * len(inner) // n_layers)
    compute = request.compute_bytes if layers else 0
    row = sum(size for layer, size in zip(model.layers, model.expert_bytes, strict=True) if layer in inner)
    n_slots = max(0, min(model.n_experts, (free_bytes - dense - kv - compute) // row)) if row else 0
    return DeviceBudget(name, inner, has_output, dense, kv, compute, n_slots, n_slots * row, free_bytes)
