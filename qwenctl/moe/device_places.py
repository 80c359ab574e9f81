"""What each device is to hold, and what it held and did: values. Knows nothing of how experts get there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qwenctl.moe.device_budget import DevicePlan
from qwenctl.moe.device_executor import LARGEST_CHUNK
from qwenctl.moe.device_graphs import workspace_bytes
from qwenctl.moe.devices import Device
from qwenctl.moe.expert_map import MoeLayer
from qwenctl.moe.prompt_space import PromptSpace


@dataclass(frozen=True, slots=True)
class DevicePlace:
    """What one device is to hold.

    Attributes:
        device: which one.
        positions: of its layers in the expert map; a layer belongs to one device.
        budget_bytes: of its memory, for slots and what computing takes.
        prompts: the largest micro-batch of prompts, whose work comes on top of that; None: prompts have no way of their
            own.
    """

    device: Device
    positions: tuple[int, ...]
    budget_bytes: int
    prompts: PromptSpace | None = None


def places_of(
    devices: Sequence[Device], layers: Sequence[MoeLayer], plan: DevicePlan, prompts: PromptSpace | None = None
) -> tuple[DevicePlace, ...]:
    """Return the places that sizing's plan means.

    Args:
        devices: as they were found; the plan names them by their labels.
        layers: of the expert map.
        plan: which layers are on which device, and how many slots they get there.
        prompts: the largest micro-batch of prompts, for which the plan has room.
    """
    by_label = {device.label: device for device in devices}
    position_of = {layer.index: position for position, layer in enumerate(layers)}
    places = []
    for budget in plan.budgets:
        held = tuple(position_of[index] for index in budget.layers if index in position_of)
        if held and budget.n_slots:
            widths = widths_of([layers[position] for position in held])
            n_bytes = budget.slots_bytes + workspace_bytes(widths, LARGEST_CHUNK)
            places.append(DevicePlace(by_label[budget.name], held, n_bytes, prompts))
    return tuple(places)


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One device as it was used: for the placement line and `--stats`.

    Attributes:
        label: the device.
        n_layers: layers that have slots there.
        n_slots: in all of them.
        slots_bytes, workspace_bytes: of its memory.
        n_runs, n_pairs, n_uploads: what it did.
        n_passed: experts that were brought for one micro-batch of a prompt.
        busy_s: between `start` and the end of `finish`, without prompts' micro-batches.
        waited_s: in `finish` and `finish_prompt`.
    """

    label: str
    n_layers: int
    n_slots: int
    slots_bytes: int
    workspace_bytes: int
    n_runs: int
    n_pairs: int
    n_uploads: int
    n_passed: int
    busy_s: float
    waited_s: float


def widths_of(layers: Iterable[MoeLayer]) -> tuple[int, int]:
    """Return the largest (n_embd, n_ff) of some layers."""
    shapes = [(layer.tensors[0].n_in, layer.tensors[-1].n_in) for layer in layers]
    return max(n_embd for n_embd, _ in shapes), max(n_ff for _, n_ff in shapes)
