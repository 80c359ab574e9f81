"""Where llama.cpp by itself is to hold a model, when the expert scheduler is not there: layers on devices. Pure.

    dense model        as many of the last layers as fit, the output first
    with experts       every layer's dense part first, then the experts of as many layers as fit; the others' stay in
                       main memory, through a buffer-type override of their tensors, as llama.cpp's --n-cpu-moe does

Layers are split over devices as device_split.py says; where not all fit so, each device is filled, unless the user said
how to split. Knows nothing of slots.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from quant.tensor_info import TensorInfo
from qwenctl.moe.device_budget import DeviceRequest
from qwenctl.moe.device_split import held_layers, usable_bytes
from qwenctl.moe.machine_memory import DeviceMemory
from qwenctl.moe.model_size import layer_of
from qwenctl.units import format_memory

# The tensors that --n-cpu-moe keeps in main memory: LLM_FFN_EXPS_REGEX of llama.cpp's common/common.h.
EXPERT_TENSORS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"
STOCK_UBATCH = 512  # tokens of a prompt that llama.cpp computes at once by itself


@dataclass(frozen=True, slots=True)
class LayerSizes:
    """Bytes of a model's tensors as the file has them; one entry a layer, those without experts 0.

    Raises:
        ValueError: lists of different lengths.
    """

    dense: tuple[int, ...]
    experts: tuple[int, ...]
    output: int  # matrix and norm; the embedding where it is used for both

    def __post_init__(self) -> None:
        if len(self.dense) != len(self.experts):
            raise ValueError("dense and experts need one entry a layer")


@dataclass(frozen=True, slots=True)
class StockPart:
    """One device's part."""

    name: str
    layers: tuple[int, ...]
    has_output: bool
    expert_layers: tuple[int, ...]  # of `layers`, those whose experts it holds too
    planned_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class StockPlacement:
    """All devices."""

    n_layers: int
    parts: tuple[StockPart, ...]
    cpu_experts: tuple[int, ...]  # layers on devices whose experts are in main memory

    @property
    def layer_counts(self) -> tuple[int, ...]:
        """Layers of each device, the output counted as one: llama.cpp's `tensor_split`."""
        return tuple(len(part.layers) + part.has_output for part in self.parts)

    @property
    def n_gpu_layers(self) -> int:
        """Layers on all of them together: llama.cpp's parameter of that name."""
        return sum(self.layer_counts)

    @property
    def is_whole(self) -> bool:
        """Whether devices hold all that they can hold."""
        return self.n_gpu_layers == self.n_layers + 1 and not self.cpu_experts

    def summary(self) -> str:
        """Return the line for people: what is where."""
        placed = [
            f"{len(part.layers)} on {part.name} ({format_memory(part.planned_bytes)})"
            for part in self.parts
            if part.layers or part.has_output
        ]
        n_left = self.n_layers - sum(len(part.layers) for part in self.parts)
        if n_left or not placed:
            placed.append(f"{n_left} in main memory")
        line = f"layers: {', '.join(placed)}"
        if self.cpu_experts:
            line += f"; experts of {len(self.cpu_experts)} of {self.n_layers} layers in main memory"
        return line


def layer_sizes(tensors: Mapping[str, TensorInfo], n_layers: int) -> LayerSizes:
    """Return the sizes of a model's parts.

    Args:
        tensors: of the file, by name.
        n_layers: that llama.cpp loads; tensors of later ones are left out.
    """
    dense: Counter[int] = Counter()
    experts: Counter[int] = Counter()
    for name, tensor in tensors.items():
        (experts if re.search(EXPERT_TENSORS, name) else dense)[layer_of(name)] += tensor.n_bytes
    layers = range(n_layers)
    return LayerSizes(
        tuple(dense[layer] for layer in layers), tuple(experts[layer] for layer in layers), _output_bytes(tensors)
    )


def place_stock(sizes: LayerSizes, devices: Sequence[DeviceMemory], request: DeviceRequest) -> StockPlacement:
    """Return the placement with as much as fits on devices.

    Args:
        sizes: of the model.
        devices: in the order in which llama.cpp gets them.
        request: what else they hold, and what the user decided.
    """
    n_layers = len(sizes.dense)
    free = usable_bytes(devices, request.vram_bytes)
    most = request.most_layers(n_layers) if sum(free) else 0
    counts = range(most, 0, -1) if request.split else range(most, 0, -1)[:1]
    tries = [held_layers(n_layers, request.split or free, count) for count in counts]
    if not request.split:
        tries.append(_filled(sizes, request, free, most))
    for held in tries:
        parts = tuple(
            _part(sizes, request, device.name, room, layers)
            for device, room, layers in zip(devices, free, held, strict=True)
        )
        if any(held) and all(part.planned_bytes <= part.free_bytes for part in parts):
            on_devices = {layer for part in parts for layer in part.layers if sizes.experts[layer]}
            return StockPlacement(n_layers, parts, _without(on_devices, parts))
    return StockPlacement(n_layers, (), ())


def cpu_override(layers: Iterable[int]) -> str:
    """Return the pattern of the expert tensors of these layers, for llama.cpp's tensor_buft_overrides."""
    return rf"blk\.({'|'.join(map(str, layers))}){EXPERT_TENSORS}"


def _filled(sizes: LayerSizes, request: DeviceRequest, free: Sequence[int], most: int) -> list[list[int]]:
    """Return each device's layers, at most the last `most`: what fits on the last device, then on the one before."""
    n_layers = len(sizes.dense)
    kv = -(-request.kv_bytes // n_layers)
    layer = n_layers
    held: list[list[int]] = []
    for room in reversed(free):
        left, layers = room - request.compute_bytes, []
        while layer > n_layers - most:
            needed = sizes.output if layer == n_layers else sizes.dense[layer] + kv
            if needed > left:
                break
            left -= needed
            layers.append(layer)
            layer -= 1
        held.append(layers[::-1])
    return held[::-1]


def _part(sizes: LayerSizes, request: DeviceRequest, name: str, free_bytes: int, layers: Sequence[int]) -> StockPart:
    n_layers = len(sizes.dense)
    inner = [layer for layer in layers if layer < n_layers]
    has_output = n_layers in layers
    planned = sum(sizes.dense[layer] for layer in inner) + (sizes.output if has_output else 0)
    planned += -(-request.kv_bytes * len(inner) // n_layers) + (request.compute_bytes if layers else 0)
    expert_layers = []
    for layer in reversed(inner):
        if sizes.experts[layer] and planned + sizes.experts[layer] <= free_bytes:
            planned += sizes.experts[layer]
            expert_layers.append(layer)
    return StockPart(name, tuple(inner), has_output, tuple(sorted(expert_layers)), planned, free_bytes)


def _without(layers: set[int], parts: Iterable[StockPart]) -> tuple[int, ...]:
    return tuple(sorted(layers.difference(*(part.expert_layers for part in parts))))


def _output_bytes(tensors: Mapping[str, TensorInfo]) -> int:
    found = sum(tensor.n_bytes for name, tensor in tensors.items() if name.startswith("output"))
    table = tensors.get("token_embd.weight")
    return found + (table.n_bytes if table and "output.weight" not in tensors else 0)
