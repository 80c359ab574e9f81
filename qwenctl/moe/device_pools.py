"""Expert slots in a device's memory: one buffer a layer, one 3-d tensor a matrix, a map of what lies where.

    buffer of a layer:  | gate [n_in, n_out, n_slots] | up [n_in, n_out, n_slots] | down [n_in, n_out, n_slots] |
                        | gate_up [n_in, n_out, n_slots] | down [n_in, n_out, n_slots] |

A slot is one index of the last dimension in each tensor, so its weights are the file's plain bytes at slot ×
expert_bytes, and a slot's number is what MUL_MAT_ID takes for an expert's. Knows nothing of what is uploaded when.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.devices import Device, DeviceCalls
from qwenctl.moe.expert_map import MoeLayer
from qwenctl.moe.ggml_calls import TensorContext, address_of
from qwenctl.moe.residency import LayerPool

_F32, _I32 = abi.GGML_TYPE["F32"], abi.GGML_TYPE["I32"]
# A device that refused memory is asked for this much less, and in the end for none.
_NEXT_TRY = 7 / 8
# Bringing an expert over a network costs many times what a use of it saves, so the past that counts is longer than that
# of slots in RAM (residency.py). From this machine's memory a device is filled as a cache is.
HALF_LIFE_STEPS, NEAR_HALF_LIFE_STEPS = 64.0, 16.0


class DevicePool:
    """The slots of one layer on one device. `open_pools` makes them.

    Attributes:
        layer: what the file says.
        slots: which expert has which slot, with those on their way; its heat decides who leaves.
        slot_of: expert → slot, -1: not there, or not yet. Always the same list; not to be written.
        tensors: the ggml tensors, in the order of `layer.tensors`.
        n_bytes: of device memory.
        n_on_way: experts that have a slot and are not published.
    """

    __slots__ = (
        "_buffer",
        "_calls",
        "_context",
        "_unit",
        "layer",
        "n_bytes",
        "n_on_way",
        "slot_of",
        "slots",
        "tensors",
    )

    def __init__(  # noqa: PLR0917 - what a pool is made of
        self,
        calls: DeviceCalls,
        layer: MoeLayer,
        n_slots: int,
        context: TensorContext,
        buffer: int,
        n_bytes: int,
        half_life_steps: float,
    ) -> None:
        self._calls, self._context, self._buffer = calls, context, buffer
        self.layer, self.n_bytes = layer, n_bytes
        self.slots = LayerPool(layer.n_experts, n_slots, half_life_steps)
        self._unit = 1.0
        self.n_on_way = 0
        self.slot_of = [-1] * layer.n_experts
        self.tensors: tuple[Any, ...] = ()

    def use(self, experts: Sequence[int]) -> None:
        """Note one step's distinct experts, wherever they are computed; not none."""
        heat, first = self.slots.heat, experts[0]
        before = heat[first]
        self.slots.use(experts)
        self._unit = heat[first] - before if heat[first] > before else 1.0  # else: all heat was scaled down to that

    def uses_of(self, expert: int) -> float:
        """Return an expert's heat as a number of uses, each half as much after the half-life."""
        return float(self.slots.heat[expert]) / self._unit

    def is_on_way(self, expert: int) -> bool:
        """Return whether an expert has a slot and is not published yet."""
        return self.slot_of[expert] < 0 <= self.slots.slot_of[expert]

    def takes(self, expert: int, keep: Collection[int] = ()) -> bool:
        """Return whether an absent expert has a slot to go to: a free one, or that of a colder one that may leave."""
        slots = self.slots
        if slots.n_free:
            return True
        leaving = slots.coldest(keep)
        return leaving >= 0 and bool(slots.heat[leaving] < slots.heat[expert])

    def coldest(self, n_experts: int, keep: Collection[int] = ()) -> list[tuple[int, float]]:
        """Return the coldest experts that may leave, at most so many, with their uses; those of `keep` must stay."""
        order = np.argsort(self.slots.heat, kind="stable").tolist()
        there = (expert for expert in order if self.slot_of[expert] >= 0 and expert not in keep)
        return [(expert, self.uses_of(expert)) for expert in islice(there, n_experts)]

    def admit(self, expert: int, keep: Collection[int] = ()) -> int:
        """Give an absent expert a slot and pin it there until `publish` or `drop`; the coldest one leaves for it.

        Args:
            expert: which one.
            keep: experts that must stay: those of the step that computes now.

        Returns:
            The expert that left, -1: the slot was free.

        Raises:
            ValueError: the expert has a slot, or every slot holds one that must stay.
        """
        _, evicted = self.slots.admit(expert, keep)
        self.slots.pin(expert)
        self.n_on_way += 1
        if evicted >= 0:
            self.slot_of[evicted] = -1
        return evicted

    def write(self, expert: int, matrix: int, address: int) -> None:
        """Copy one matrix of an admitted expert into its slot, from any thread; then the memory may change.

        Args:
            expert: which one.
            matrix: index in `layer.tensors`.
            address: of the file's plain bytes.
        """
        n_bytes = self.layer.tensors[matrix].expert_bytes
        at = self.slots.slot_of[expert] * n_bytes
        self._calls.ggml_backend_tensor_set(address_of(self.tensors[matrix]), address, at, n_bytes)

    def publish(self, expert: int) -> None:
        """Let an admitted and written expert be computed with."""
        self.slots.unpin(expert)
        self.n_on_way -= 1
        self.slot_of[expert] = self.slots.slot_of[expert]

    def drop(self, expert: int) -> None:
        """Take the slot back from an expert that was admitted but could not be written."""
        self.n_on_way -= 1
        self.slots.forget(expert)

    def remove(self, expert: int) -> None:
        """Free a published expert's slot."""
        self.slot_of[expert] = -1
        self.slots.forget(expert)

    def check_integrity(self) -> None:
        """Raise AssertionError unless what is published is what has slots and is not on its way."""
        self.slots.check_integrity()
        for expert, slot in enumerate(self.slot_of):
            if slot >= 0 and self.slots.slot_of[expert] != slot:
                raise AssertionError(f"expert {expert} is published in slot {slot} but not there")

    def close(self) -> None:
        """Free the device's memory."""
        buffer, self._buffer = self._buffer, 0
        if buffer:
            self._calls.ggml_backend_buffer_free(buffer)
            self._context.free()


@dataclass(frozen=True, slots=True)
class OpenedPools:
    """What a device could take: a pool for each layer that got slots, and a line for each thing it could not."""

    pools: dict[int, DevicePool]
    notes: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """Device memory of all pools."""
        return sum(pool.n_bytes for pool in self.pools.values())


def slots_within(expert_bytes: Sequence[int], n_experts: Sequence[int], budget_bytes: int) -> list[int]:
    """Return how many slots each layer gets under a budget: as many each, the rest one by one from the first on.

    Args:
        expert_bytes: of one expert, by layer.
        n_experts: by layer; no layer gets more slots.
        budget_bytes: for all layers together.
    """
    row = sum(expert_bytes)
    n_slots = [min(most, max(0, budget_bytes) // row) for most in n_experts] if row else []
    left = budget_bytes - sum(n * size for n, size in zip(n_slots, expert_bytes, strict=True))
    for index, (size, most) in enumerate(zip(expert_bytes, n_experts, strict=True)):
        if size <= left and n_slots[index] < most:
            n_slots[index] += 1
            left -= size
    return n_slots


def open_pools(calls: DeviceCalls, device: Device, layers: Mapping[int, MoeLayer], budget_bytes: int) -> OpenedPools:
    """Give layers slots on a device, as many as the budget and the device allow.

    Args:
        calls: the library.
        device: which one.
        layers: the layers it holds, by any key.
        budget_bytes: of its memory, for the slots.
    """
    notes: list[str] = []
    able = {}
    for key, layer in layers.items():
        reason = why_not(calls, device, layer)
        if reason is None:
            able[key] = layer
        elif reason not in notes:
            notes.append(reason)
    wanted_bytes = budget_bytes
    while able:
        pools = _try(calls, device, able, budget_bytes)
        if pools is not None:
            if budget_bytes < wanted_bytes:
                got = sum(pool.n_bytes for pool in pools.values())
                notes.append(f"{device.label} gave {got} bytes for experts where {wanted_bytes} were planned")
            return OpenedPools(pools, tuple(notes))
        budget_bytes = int(budget_bytes * _NEXT_TRY)
    return OpenedPools({}, tuple(notes))


def why_not(calls: DeviceCalls, device: Device, layer: MoeLayer) -> str | None:
    """Return why a device cannot compute a layer's experts, None: it can. An RPC device says yes to everything."""
    context = TensorContext(calls.ggml, 4 * len(layer.tensors))
    try:
        for info in layer.tensors:
            weights = context.tensor(info.type.type_id, info.n_in, info.n_out, 1)
            x, ids = context.tensor(_F32, info.n_in, 1, 1), context.tensor(_I32, 1, 1)
            parts = (address_of(one) for one in (weights, x, ids))
            product = calls.ggml.ggml_mul_mat_id(context.handle, *parts)
            if not calls.ggml.ggml_backend_dev_supports_op(device.handle, product):
                return f"{device.label} cannot multiply experts of type {info.type.name}"
        return None
    finally:
        context.free()


def _try(
    calls: DeviceCalls, device: Device, layers: Mapping[int, MoeLayer], budget_bytes: int
) -> dict[int, DevicePool] | None:
    """Return the pools, or None if the device refused some of the memory."""
    sizes = [layer.expert_bytes for layer in layers.values()]
    counts = slots_within(sizes, [layer.n_experts for layer in layers.values()], budget_bytes)
    pools: dict[int, DevicePool] = {}
    for (key, layer), n_slots in zip(layers.items(), counts, strict=True):
        pool = _opened(calls, device, layer, n_slots) if n_slots else None
        if pool is not None:
            pools[key] = pool
        elif n_slots:
            for one in pools.values():
                one.close()
            return None
    return pools


def _opened(calls: DeviceCalls, device: Device, layer: MoeLayer, n_slots: int) -> DevicePool | None:
    buffer_type = calls.ggml_backend_dev_buffer_type(device.handle)
    alignment = calls.ggml_backend_buft_get_alignment(buffer_type)
    context = TensorContext(calls.ggml, len(layer.tensors) + 1)
    tensors = [context.tensor(info.type.type_id, info.n_in, info.n_out, n_slots) for info in layer.tensors]
    offsets, n_bytes = [], 0
    for tensor in tensors:
        offsets.append(n_bytes)
        size = calls.ggml_backend_buft_get_alloc_size(buffer_type, address_of(tensor))
        n_bytes += -(-size // alignment) * alignment
    largest = calls.ggml_backend_buft_get_max_size(buffer_type)
    buffer = calls.ggml_backend_buft_alloc_buffer(buffer_type, n_bytes) if n_bytes <= largest else None
    if not buffer:
        context.free()
        return None
    # A kernel may read a little past a row that is no multiple of its step, and multiply that by zero: no NaN there.
    calls.ggml_backend_buffer_clear(buffer, 0)
    base = calls.ggml_backend_buffer_get_base(buffer)
    for tensor, offset in zip(tensors, offsets, strict=True):
        calls.ggml_backend_tensor_alloc(buffer, address_of(tensor), base + offset)
    half_life = HALF_LIFE_STEPS if device.is_remote else NEAR_HALF_LIFE_STEPS
    pool = DevicePool(calls, layer, n_slots, context, buffer, n_bytes, half_life)
    pool.tensors = tuple(tensors)
    return pool
