"""Which layers, and how many expert slots of each, go on which device. Pure.

llama.cpp's own way is followed for the dense part (attention, norms, router, KV cache): the last `n_gpu_layers` of a
model's layers, the output counted as one more, are split over the devices in proportion to their free memory, or as
the user says (device_split.py). What a device has left then takes expert slots of the layers that it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwenctl.moe.device_split import held_layers, usable_bytes
from qwenctl.moe.machine_memory import DeviceMemory
from qwenctl.moe.model_size import ModelSize


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
    def layer_counts(self) -> tuple[int, ...]:
        """Layers of each device, the output counted as one: llama.cpp's `tensor_split` that gives this plan."""
        return tuple(len(budget.layers) + budget.has_output for budget in self.budgets)

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
    split: tuple[float, ...] | None = None  # of layers, a number a device; None: by free memory

    def most_layers(self, n_layers: int) -> int:
        """Return how many layers may be on devices, the output counted as one."""
        asked = self.n_gpu_layers
        return n_layers + 1 if asked is None or asked < 0 else min(n_layers + 1, asked)


def plan_devices(model: ModelSize, devices: Sequence[DeviceMemory], request: DeviceRequest) -> DevicePlan:
    """Return the placement with as many layers on devices as fit; slots of experts take what is left.

    Args:
        model: the sizes of its parts.
        devices: in llama.cpp's order.
        request: what else they hold.
    """
    free = usable_bytes(devices, request.vram_bytes)
    n_layers = model.shape.n_layers
    for count in range(request.most_layers(n_layers) if sum(free) else 0, 0, -1):
        held = held_layers(n_layers, request.split or free, count)
        budgets = tuple(
            _budget(model, request, device.name, room, layers)
            for device, room, layers in zip(devices, free, held, strict=True)
        )
        if all(budget.planned_bytes <= budget.free_bytes for budget in budgets):
            return DevicePlan(count, budgets)
    return DevicePlan(0, ())


def _budget(
    model: ModelSize, request: DeviceRequest, name: str, free_bytes: int, layers: Sequence[int]
) -> DeviceBudget:
    n_layers = model.shape.n_layers
    inner = tuple(layer for layer in layers if layer < n_layers)
    held = frozenset(inner)
    has_output = n_layers in layers
    dense = len(inner) * model.dense_layer_bytes + (model.output_bytes if has_output else 0)
    kv = -(-request.kv_bytes * len(inner) // n_layers)
    compute = request.compute_bytes if layers else 0
    row = sum(size for layer, size in zip(model.layers, model.expert_bytes, strict=True) if layer in held)
    n_slots = max(0, min(model.n_experts, (free_bytes - dense - kv - compute) // row)) if row else 0
    return DeviceBudget(name, inner, has_output, dense, kv, compute, n_slots, n_slots * row, free_bytes)
