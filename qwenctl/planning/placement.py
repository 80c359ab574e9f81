"""Where a model lies on a machine: decided by the functions that `run` decides by, in terms of memories and layers.

    experts to be scheduled    moe.sizing.size_offload: dense part and hot experts on devices, experts in RAM slots, the
                               rest read from the disk
    otherwise                  moe.stock_placement.place_stock: whole layers on devices, the rest in main memory

Pure. Knows nothing of speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest

from qwenctl.errors import DoesNotFit
from qwenctl.moe.context_memory import compute_bytes, kv_cache_bytes
from qwenctl.moe.device_budget import DeviceBudget, DeviceRequest
from qwenctl.moe.engine_choice import first_suitable, is_for_stock
from qwenctl.moe.flash_choice import flash_is_better
from qwenctl.moe.layout_choice import LayoutChoice
from qwenctl.moe.model_size import ModelSize
from qwenctl.moe.offload_plan import OffloadPlan, OffloadRequest
from qwenctl.moe.prefill_rates import PrefillRates
from qwenctl.moe.sizing import base_bytes, fits_devices, margin_bytes, size_offload, try_size
from qwenctl.moe.stock_placement import STOCK_UBATCH, StockPart, StockPlacement, place_stock
from qwenctl.planning.machine import Machine
from qwenctl.planning.model import PlannedModel


@dataclass(frozen=True, slots=True)
class ContextRequest:
    """What the context is to hold.

    Raises:
        ValueError: a count below one.
    """

    n_ctx: int  # of each sequence
    n_parallel: int = 1
    kv_type: str = "f16"

    def __post_init__(self) -> None:
        if self.n_ctx < 1 or self.n_parallel < 1:
            raise ValueError(f"no such context: {self}")


@dataclass(frozen=True, slots=True)
class ExpertLayout:
    """How experts lie in their slots on this machine, once that is known.

    Attributes:
        choice: layout and operations.
        slot_bytes: of an expert of each layer with experts.
        rates: of the CPU and the disk with experts in this layout.
        n_io_threads: that read.
    """

    choice: LayoutChoice
    slot_bytes: tuple[int, ...]
    rates: PrefillRates
    n_io_threads: int


LayoutGroups = tuple[tuple[ExpertLayout, ...], ...]


@dataclass(frozen=True, slots=True)
class LayerPlace:
    """Where one layer is computed.

    Attributes:
        device: index of the one that holds its dense part and cells; None: main memory.
        device_slots: experts of it on that device.
        ram_slots: experts of it in main memory; those in neither are on the disk.
    """

    device: int | None
    device_slots: float = 0
    ram_slots: float = 0


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """One memory: what of it is planned, in bytes by what for, and how much it has for that."""

    name: str
    total_bytes: int
    parts: Mapping[str, int]

    @property
    def planned_bytes(self) -> int:
        """The sum."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Placement:
    """What lies where.

    Attributes:
        layers: of the model.
        output_device: that has the output matrix; None: main memory.
        memories: devices, then main memory.
        n_ubatch: tokens of a prompt computed at once.
        flash: attention is computed by the flash kernel.
        rates: of the CPU with experts as they lie there, and of the disk.
        tier: the slowest memory that holds weights: "devices", "memory", "disk".
        offload: the scheduler's plan; None: llama.cpp by itself.
        stock: llama.cpp's placement; None: the scheduler's.
    """

    layers: tuple[LayerPlace, ...]
    output_device: int | None
    memories: tuple[MemoryUse, ...]
    n_ubatch: int
    flash: bool
    rates: PrefillRates
    tier: str
    offload: OffloadPlan | None = None
    stock: StockPlacement | None = None


def place(model: PlannedModel, machine: Machine, request: ContextRequest, layouts: LayoutGroups = ()) -> Placement:
    """Return where the model goes.

    Args:
        model: in its types.
        machine: that it is for.
        request: the context.
        layouts: that `engine_choice.first_suitable` chooses from; empty: experts lie as in the file.

    Raises:
        DoesNotFit: it does not; the message says what is missing.
    """
    placed = try_place(model, machine, request, layouts)
    if placed is None:
        raise _does_not_fit(model, machine, request, layouts)
    return placed


def try_place(
    model: PlannedModel, machine: Machine, request: ContextRequest, layouts: LayoutGroups = ()
) -> Placement | None:
    """Return where the model goes, as `place`; None: it does not fit."""
    if model.experts is None:
        return place_by_layers(model, machine, request)
    try:
        layout, (size, plan) = first_suitable(
            layouts or ((None,),), lambda one: _sized(model, machine, request, one), lambda found: found[1]
        )
    except _TooLarge:
        return None
    asked = _offload_request(machine, request, layout)
    if fits_devices(size, machine.memory, asked) or is_for_stock(plan, size, layout.choice if layout else None):
        by_layers = place_by_layers(model, machine, request)
        if by_layers is not None:  # else its margins are what is missing, and slots fit all the same
            return by_layers
    return _offloaded(size, machine, plan, asked.rates)


class _TooLarge(Exception):
    """Not even the smallest number of experts fits."""


def _sized(
    model: PlannedModel, machine: Machine, request: ContextRequest, layout: ExpertLayout | None
) -> tuple[ModelSize, OffloadPlan]:
    size = model.size(layout.slot_bytes if layout else None)
    asked = _offload_request(machine, request, layout)
    usual = OffloadRequest(request.n_ctx).n_io_threads  # fewer threads where memory is short
    plan = try_size(size, machine.memory, asked) or try_size(size, machine.memory, replace(asked, n_io_threads=usual))
    if plan is None:
        raise _TooLarge
    return size, plan


def _does_not_fit(model: PlannedModel, machine: Machine, request: ContextRequest, layouts: LayoutGroups) -> DoesNotFit:
    if model.experts is not None:
        layout = layouts[-1][-1] if layouts else None
        try:
            size_offload(model.size(), machine.memory, _offload_request(machine, request, layout))
        except DoesNotFit as error:
            return error
    needs = f"{model.outline.name} does not fit {machine.name} with a context of {request.n_ctx} tokens"
    return DoesNotFit(needs, "take a smaller quantization or context, or a KV cache of q8_0")


def _offload_request(machine: Machine, request: ContextRequest, layout: ExpertLayout | None) -> OffloadRequest:
    usual = OffloadRequest(request.n_ctx)
    return OffloadRequest(
        n_cells=request.n_ctx,
        n_streams=request.n_parallel,
        n_outputs=request.n_parallel,
        type_k=request.kv_type,
        type_v=request.kv_type,
        n_io_threads=layout.n_io_threads if layout else usual.n_io_threads,
        layout=layout.choice.layout if layout else usual.layout,
        rates=layout.rates if layout else machine.cpu.batch,
    )


def _offloaded(size: ModelSize, machine: Machine, plan: OffloadPlan, rates: PrefillRates) -> Placement:
    held = {layer: index for index, one in enumerate(plan.devices.budgets) for layer in one.layers}
    ram = dict(zip(size.layers, plan.n_slots, strict=True))
    layers = tuple(
        LayerPlace(
            held.get(layer),
            plan.devices.budgets[held[layer]].n_slots if layer in held and layer in ram else 0,
            ram.get(layer, 0),
        )
        for layer in range(size.shape.n_layers)
    )
    all_there = all(one.device_slots + one.ram_slots >= size.n_experts for i, one in enumerate(layers) if i in ram)
    return Placement(
        layers=layers,
        output_device=next((index for index, one in enumerate(plan.devices.budgets) if one.has_output), None),
        memories=(*_device_uses(plan, machine), _ram_use(plan)),
        n_ubatch=plan.n_ubatch,
        flash=plan.flash_attention,
        rates=rates,
        tier="memory" if all_there else "disk",
        offload=plan,
    )


def _device_uses(plan: OffloadPlan, machine: Machine) -> list[MemoryUse]:
    return [
        MemoryUse(device.name, device.total_bytes, {} if one is None else _budget_parts(one))
        for device, one in zip_longest(machine.memory.devices, plan.devices.budgets)
    ]


def _budget_parts(one: DeviceBudget) -> dict[str, int]:
    return {"dense": one.dense_bytes, "experts": one.slots_bytes, "kv": one.kv_bytes, "compute": one.compute_bytes}


def _ram_use(plan: OffloadPlan) -> MemoryUse:
    parts = plan.parts
    other = parts.base + parts.staging + parts.scratch + parts.ring
    named = {"dense": parts.dense, "experts": parts.experts, "kv": parts.kv, "compute": parts.compute, "other": other}
    return MemoryUse("RAM", plan.budget_bytes, named)


def place_by_layers(model: PlannedModel, machine: Machine, request: ContextRequest) -> Placement | None:
    """Return where llama.cpp by itself puts a model, as with `--offload off`; None: it does not fit."""
    kv = kv_cache_bytes(model.shape, request.n_ctx, request.n_parallel, request.kv_type, request.kv_type)
    cpu_only = not machine.memory.devices
    flash = flash_is_better(model.shape.n_head, STOCK_UBATCH, request.n_ctx, request.kv_type, cpu_only=cpu_only)
    compute = compute_bytes(model.shape, STOCK_UBATCH, request.n_ctx, n_outputs=request.n_parallel, flash=flash)
    placement = place_stock(model.sizes, machine.memory.devices, DeviceRequest(kv, compute))
    held = {layer: index for index, part in enumerate(placement.parts) for layer in part.layers}
    n_experts = model.shape.n_experts
    on_cpu = set(placement.cpu_experts)
    layers = tuple(
        LayerPlace(held.get(i), 0 if i in on_cpu else n_experts, n_experts if i in on_cpu else 0)
        if i in held
        else LayerPlace(None, 0, n_experts)
        for i in range(model.shape.n_layers)
    )
    ram = _stock_ram(model, machine, placement, kv, compute)
    budget = machine.memory.budget_bytes - margin_bytes(machine.memory.budget_bytes, shared=machine.memory.shared)
    if ram.planned_bytes > budget:
        return None
    return Placement(
        layers=layers,
        output_device=next((index for index, part in enumerate(placement.parts) if part.has_output), None),
        memories=(*_stock_uses(model, machine, placement, kv, compute), ram),
        n_ubatch=STOCK_UBATCH,
        flash=flash,
        rates=machine.cpu.batch,
        tier="devices" if placement.is_whole and placement.parts else "memory",
        stock=placement,
    )


def _stock_ram(model: PlannedModel, machine: Machine, placement: StockPlacement, kv: int, compute: int) -> MemoryUse:
    """Return what stays in main memory; of a model on devices, the embedding."""
    sizes, n_layers = model.sizes, model.shape.n_layers
    held = {layer for part in placement.parts for layer in part.layers}
    experts_held = {layer for part in placement.parts for layer in part.expert_layers}
    inner = [layer for layer in range(n_layers) if layer not in held]
    table = model.gguf.tensors["token_embd.weight"].n_bytes
    dense = table + sum(sizes.dense[layer] for layer in inner)
    has_output = any(part.has_output for part in placement.parts)
    if not has_output and "output.weight" in model.gguf.tensors:
        dense += sizes.output
    experts = sum(sizes.experts[layer] for layer in range(n_layers) if layer not in experts_held)
    parts = {
        "dense": dense,
        "experts": experts,
        "kv": kv * len(inner) // n_layers,
        "compute": compute,
        "other": base_bytes(model.shape.n_vocab, machine.memory.used_bytes),
    }
    return MemoryUse("RAM", machine.memory.budget_bytes, parts)


def _stock_uses(
    model: PlannedModel, machine: Machine, placement: StockPlacement, kv: int, compute: int
) -> list[MemoryUse]:
    return [
        MemoryUse(device.name, device.total_bytes, {} if part is None else _stock_parts(model, part, kv, compute))
        for device, part in zip_longest(machine.memory.devices, placement.parts)
    ]


def _stock_parts(model: PlannedModel, part: StockPart, kv: int, compute: int) -> dict[str, int]:
    if not (part.layers or part.has_output):
        return {}
    sizes = model.sizes
    return {
        "dense": sum(sizes.dense[layer] for layer in part.layers) + (sizes.output if part.has_output else 0),
        "experts": sum(sizes.experts[layer] for layer in part.expert_layers),
        "kv": -(-kv * len(part.layers) // model.shape.n_layers),
        "compute": compute,
    }
