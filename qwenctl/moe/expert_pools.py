"""Where experts are in RAM, and how they get there: a pool of slots a layer.

    LayerSlots    one layer: its pool (which expert in which slot), the slots' memory, ggml's buffers over it

An expert with a slot may still be on its way: `LayerSlots.loading` holds its ticket until it has been waited for. No
product may touch a slot before that. Knows nothing of graphs or of which expert is wanted when.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from qwenctl.errors import ExpertReadFailed
from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.expert_loader import Ticket
from qwenctl.moe.expert_map import MoeLayer
from qwenctl.moe.ggml_calls import Ggml, TensorContext, address_of
from qwenctl.moe.graph_tensors import SlotBuffers
from qwenctl.moe.residency import LayerPool, half_life_steps
from qwenctl.moe.slot_balance import SAMPLE_EVERY, SlotBalance
from qwenctl.moe.slot_layout import LayoutMaker, SlotLayout, SlotMatrix
from qwenctl.moe.slot_memory import SlotMemory


class SlotSpace:
    """Slots of one size in anonymous memory, with a ggml buffer over them for every buffer type of the layouts."""

    def __init__(self, ggml: Ggml, maker: LayoutMaker, slot_bytes: int, n_slots: int) -> None:
        self._ggml = ggml
        self._maker = maker
        self.memory = SlotMemory(slot_bytes, n_slots)
        self._buffers: dict[int, int] = {}
        self._buffer(0)

    def buffers(self, layout: SlotLayout) -> SlotBuffers:
        """Return the buffers in which slots of this layout lie, and what ggml's kernels want in `extra`."""
        extras = tuple(self._extra(matrix) for matrix in layout.matrices)
        return SlotBuffers(dict(self._buffers), extras)

    def close(self) -> None:
        """Free the buffers; the memory goes with the last reference."""
        while self._buffers:
            self._ggml.ggml_backend_buffer_free(self._buffers.popitem()[1])

    def _buffer(self, buffer_type: int) -> int:
        if buffer_type not in self._buffers:
            memory = self.memory
            if buffer_type == 0:
                made = self._ggml.ggml_backend_cpu_buffer_from_ptr(memory.address, memory.n_bytes)
            else:  # the interface of a real buffer of that type, over our memory, which it must not free
                probe = abi.ggml_backend_buffer.from_address(self._maker.probe_buffer(buffer_type))
                interface = abi.ggml_backend_buffer_i()
                ctypes.memmove(address_of(interface), address_of(probe.iface), ctypes.sizeof(interface))
                _clear(interface, "free_buffer")
                made = self._ggml.ggml_backend_buffer_init(buffer_type, interface, memory.address, memory.n_bytes)
            self._buffers[buffer_type] = made
        return self._buffers[buffer_type]

    def _extra(self, matrix: SlotMatrix) -> int:
        buffer = self._buffer(matrix.buffer_type)
        if not matrix.buffer_type:
            return 0
        context = TensorContext(self._ggml, 2)
        try:
            tensor = context.tensor(matrix.type_id, matrix.n_in, matrix.n_out)
            tensor.buffer, tensor.data = buffer, self.memory.address
            interface = abi.ggml_backend_buffer.from_address(buffer).iface
            interface.init_tensor(buffer, address_of(tensor))
            return int(tensor.extra or 0)
        finally:
            context.free()


class LayerSlots:
    """The experts of one layer that are in RAM.

    Attributes:
        layer: what the file says.
        layout: of its slots.
        pool: which expert has which slot.
        loading: expert → ticket, while its slot is being filled.
        leisurely: those of `loading` that nobody waited for when they were asked for.
        position: of the layer in the expert map.
        balance: gets samples of what the layer uses; None: slots stay as they are.
        ready: int32 (n_experts,) the slot of each expert whose bytes are there, -1: not there.
    """

    def __init__(  # noqa: PLR0917 - what a layer's slots are made of
        self, ggml: Ggml, maker: LayoutMaker, layer: MoeLayer, layout: SlotLayout, n_slots: int, n_used: int
    ) -> None:
        n_experts = layer.n_experts
        self.layer, self.layout = layer, layout
        self.space = SlotSpace(ggml, maker, layout.slot_bytes, n_experts)
        self.space.memory.prefer_huge_pages(n_slots)
        self.buffers = self.space.buffers(layout)
        self.pool = LayerPool(n_experts, n_slots, half_life_steps(n_slots, n_used))
        self.ready: npt.NDArray[np.int32] = np.full(n_experts, -1, dtype=np.int32)
        self.address, self.slot_bytes = self.space.memory.address, layout.slot_bytes
        self.loading: dict[int, Ticket] = {}
        self.leisurely: set[int] = set()
        self.position = 0  # in the expert map
        self.balance: SlotBalance | None = None
        self._n_uses = 0

    def admit(self, expert: int, keep: Sequence[int]) -> tuple[int, int]:
        """Give an absent expert a slot, pinned until it has been waited for. Returns its address and who left (-1).

        Raises:
            ValueError: every slot holds an expert that must stay.
        """
        slot, evicted = self.pool.admit(expert, keep)
        if evicted >= 0:
            self.ready[evicted] = -1
        self.pool.pin(expert)
        return self.address + slot * self.slot_bytes, evicted

    def use(self, experts: Sequence[int], ranking: npt.NDArray[np.int32] | None = None) -> list[int]:
        """Note one step, in the pool and, now and then, for the balance; return the absent experts.

        Args:
            experts: the step's distinct experts.
            ranking: int32 (n_tokens, n_ranked), each token's experts, best first; None: not known.
        """
        if self.balance is not None:
            self._n_uses += 1
            if self._n_uses % SAMPLE_EVERY == 0:
                self.balance.sample(self.position, self.pool.heat, experts)
        return self.pool.use(experts, ranking)

    def change_slots(self, n_slots: int) -> None:
        """Open slots, or close those of the coldest experts and give their memory back.

        Raises:
            ExpertReadFailed: an expert on its way could not be read.
        """
        more = n_slots - self.pool.n_slots
        if more >= 0:
            self.pool.open_slots(more)
            return
        self.wait_for(list(self.loading))
        for slot, expert in self.pool.close_coldest(-more):
            if expert >= 0:
                self.ready[expert] = -1
            self.space.memory.release(slot, slot + 1)

    def slot_address(self, expert: int) -> int:
        """Return the address of a present expert's slot."""
        return self.address + self.pool.slot_of[expert] * self.slot_bytes

    def matrices_of(self, expert: int) -> list[int]:
        """Return the addresses of a present expert's matrices."""
        slot = self.slot_address(expert)
        return [slot + matrix.offset_bytes for matrix in self.layout.matrices]

    def wait_for(self, experts: Sequence[int]) -> None:
        """Wait until these experts, which have slots, are there.

        Raises:
            ExpertReadFailed: one could not be read; its slot is free again.
        """
        for expert in experts:
            ticket = self.loading.get(expert)
            if ticket is None:
                continue
            try:
                ticket.wait()
            except ExpertReadFailed:  # by now nobody writes into the slot any more
                self._absent_again(expert)
                raise
            self._arrived(expert)

    def cancel(self, expert: int) -> bool:
        """Make an expert that is on its way absent again, unless its read has begun. Returns whether that was done."""
        cancelled = self.loading[expert].cancel()
        if cancelled:
            self._absent_again(expert)
        return cancelled

    def give_up_one(self, keep: Sequence[int]) -> bool:
        """Let an expert that was read ahead, and is not in `keep`, be evicted. Returns whether there was one."""
        expert = next((one for one in self.loading if one not in keep), None)
        if expert is None:
            return False
        if not self.cancel(expert):
            with suppress(ExpertReadFailed):  # nobody needs it now
                self.wait_for([expert])
        return True

    def give_up(self) -> None:
        """Wait for all that is on its way; what could not be read is absent again."""
        for expert in list(self.loading):
            with suppress(ExpertReadFailed):
                self.wait_for([expert])

    def settle(self) -> None:
        """Take note of what has arrived by itself. Failures stay until they are waited for."""
        for expert in [one for one, ticket in self.loading.items() if ticket.done and ticket.error is None]:
            self.loading[expert].wait()
            self._arrived(expert)

    def check_integrity(self) -> None:
        """Raise AssertionError unless pool, table and tickets agree."""
        self.pool.check_integrity()
        there = [-1 if expert in self.loading else slot for expert, slot in enumerate(self.pool.slot_of)]
        if self.ready.tolist() != there:
            raise AssertionError(f"layer {self.layer.index}: ready {self.ready.tolist()}, slots {there}")

    def _absent_again(self, expert: int) -> None:
        del self.loading[expert]
        self.leisurely.discard(expert)
        self.pool.forget(expert)

    def _arrived(self, expert: int) -> None:
        del self.loading[expert]
        self.leisurely.discard(expert)
        self.pool.unpin(expert)
        self.ready[expert] = self.pool.slot_of[expert]


def _clear(interface: Any, slot: str) -> None:
    """Make a function pointer of a vtable NULL."""
    field = getattr(type(interface), slot)
    ctypes.memset(address_of(interface) + field.offset, 0, field.size)
