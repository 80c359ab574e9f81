"""Slots for experts on their way through: a prompt's batch needs more experts of a layer than the layer has slots.

    wanted ──► reading ──► arrived ──► computed ──► its slot reads the next: of this layer, then of the following one

So the disk works all the time while the CPU computes what is there, across layers, and what the layers' pools hold for
generation stays untouched. Knows nothing of graphs or routing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from qwenctl.errors import ExpertReadFailed
from qwenctl.moe.expert_loader import ExpertLoader, Ticket
from qwenctl.moe.expert_pools import SlotSpace
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.graph_tensors import SlotBuffers
from qwenctl.moe.slot_layout import LayoutMaker, SlotLayout

Key = tuple[int, int]  # position of a layer, expert


@dataclass(slots=True)
class _Passing:
    """An expert in the ring."""

    slot: int
    ticket: Ticket


class StreamRing:
    """`n_slots` slots of the largest size that any layer needs.

    Args:
        layouts: of the layers' slots, in the order of the expert map.
        n_slots: at least one.
    """

    def __init__(
        self, ggml: Ggml, maker: LayoutMaker, layouts: Sequence[SlotLayout], n_slots: int, loader: ExpertLoader
    ) -> None:
        self.slot_bytes = max(layout.slot_bytes for layout in layouts)
        self.n_slots = n_slots
        self.space = SlotSpace(ggml, maker, self.slot_bytes, n_slots)
        self.space.memory.prefer_huge_pages(n_slots)
        self.address = self.space.memory.address
        self._layouts = layouts
        self._buffers = {layout: self.space.buffers(layout) for layout in set(layouts)}
        self._loader = loader
        self._free = list(range(n_slots))
        self._passing: dict[Key, _Passing] = {}
        self._unwanted: list[_Passing] = []  # being read for nothing; their slots are free when that is over
        self._wanted: deque[Key] = deque()
        self._ahead: deque[Key] = deque()
        self._expected: set[Key] = set()
        self._computing: list[Key] = []

    def buffers(self, layout: SlotLayout) -> SlotBuffers:
        """Return the ring's buffers for slots of a layout."""
        return self._buffers[layout]

    @property
    def n_expected(self) -> int:
        """Experts of the present layer that have not arrived yet, or not been asked for."""
        return len(self._expected)

    def begin(self, position: int, experts: Sequence[int], ahead: Sequence[int]) -> None:
        """Start on a layer: `experts` will pass through; of the next layer, `ahead` may be read when slots are free."""
        self._expected = {(position, expert) for expert in experts}
        self._ahead.clear()
        for key in [key for key in self._passing if key not in self._expected]:
            self._drop(self._passing.pop(key))
        self._wanted = deque(sorted(self._expected - self._passing.keys()))
        self._ahead.extend((position + 1, expert) for expert in ahead)
        self._fill()

    def arrived(self) -> dict[int, int]:
        """Wait for one at least of the expected experts; return the addresses of the slots of all that are there.

        Raises:
            ExpertReadFailed: one could not be read.
        """
        self._fill()
        mine = [key for key in self._passing if key in self._expected]
        ready = [key for key in mine if self._passing[key].ticket.done] or mine[:1]
        for key in ready:
            self._passing[key].ticket.wait()
        self._expected.difference_update(ready)
        self._computing = ready
        return {
            expert: self.address + self._passing[position, expert].slot * self.slot_bytes for position, expert in ready
        }

    def release(self) -> None:
        """The experts that `arrived` told last have been computed: their slots may read others."""
        computed, self._computing = self._computing, []
        for key in computed:
            self._free.append(self._passing.pop(key).slot)
        self._fill()

    def forget(self) -> None:
        """Stop what is under way: all slots are free."""
        for passing in (*self._passing.values(), *self._unwanted):
            if not passing.ticket.cancel():
                self._finished(passing)
        self._passing.clear()
        self._unwanted.clear()
        self._wanted.clear()
        self._ahead.clear()
        self._expected.clear()
        self._computing = []
        self._free = list(range(self.n_slots))

    def close(self) -> None:
        """Free the buffers. The loader has been closed before."""
        self.space.close()

    def check_integrity(self) -> None:
        """Every slot is free, passing or unwanted, once."""
        slots = [*self._free, *(one.slot for one in self._passing.values()), *(one.slot for one in self._unwanted)]
        if sorted(slots) != list(range(self.n_slots)):
            raise AssertionError(f"slots of the ring: {slots}")

    def _drop(self, passing: _Passing) -> None:
        if passing.ticket.cancel() or passing.ticket.done:
            self._free.append(passing.slot)
        else:
            self._unwanted.append(passing)

    def _fill(self) -> None:
        """Read into free slots."""
        for passing in [one for one in self._unwanted if one.ticket.done]:
            self._unwanted.remove(passing)
            self._free.append(passing.slot)
        if self._wanted and not self._free and self._unwanted and not self._passing:
            self._free.append(self._finished(self._unwanted.pop(0)))
        while self._free and (self._wanted or self._ahead):
            urgent = bool(self._wanted)
            position, expert = self._wanted.popleft() if urgent else self._ahead.popleft()
            slot = self._free.pop()
            layout = self._layouts[position]
            address = self.address + slot * self.slot_bytes
            ticket = self._loader.load(position, expert, layout, self._buffers[layout], address, urgent=urgent)
            self._passing[position, expert] = _Passing(slot, ticket)

    @staticmethod
    def _finished(passing: _Passing) -> int:
        """Wait for a read that nobody wants; whether it succeeded is of no interest."""
        with suppress(ExpertReadFailed):
            passing.ticket.wait()
        return passing.slot
