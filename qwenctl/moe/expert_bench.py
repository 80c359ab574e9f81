"""Slots full of a model's experts and the graphs over them, to be timed: what computes later, without the model.

A few experts are read from the model's file and repeated until the slots hold more than caches do; successive calls
use successive slots, so that weights come from memory. Knows nothing of clocks.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.expert_loader import ExpertLoader
from qwenctl.moe.expert_map import ExpertMap
from qwenctl.moe.expert_pools import SlotSpace
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.graph_tensors import FLOAT_BYTES, GraphKit, Scratch, SlotBuffers
from qwenctl.moe.pair_graphs import Counts, GatheredGraph, IndexedGraph, Indexes, Words
from qwenctl.moe.slot_layout import LayoutMaker, SlotLayout
from qwenctl.moe.token_graph import TokenGraph
from qwenctl.units import MIB

MOST_EXPERTS = 64  # in one graph
_READ_BYTES = 16 * MIB  # of experts, before they are repeated
_MOST_ROWS = 1024
_MOST_SLOTS = 1024
_ROWS_SHARE = 0.3  # of the memory, …
_LEAST_ROWS_SHARE = 0.1  # … less where the experts of a token need the rest
SWIGLU = np.array([abi.GGML_GLU_OP["SWIGLU"]] + [0] * 15, dtype=np.int32).tobytes()  # op_params


@dataclass(frozen=True, slots=True)
class BenchSize:
    """How much is held."""

    n_slots: int  # with weights
    n_rows: int  # pairs of token and expert in a graph
    n_read: int  # experts from the file, repeated in the other slots

    @classmethod
    def within(cls, memory_bytes: int, layout: SlotLayout, experts: ExpertMap) -> BenchSize | None:
        """Return sizes that fit; None: not even an expert and a token's rows. Never more weights than the model has."""
        row_bytes = (3 * layout.n_embd + 3 * layout.n_ff) * FLOAT_BYTES  # input, scratch, result
        n_used, slot_bytes = experts.n_experts_used, layout.slot_bytes
        n_least = max(1, min(n_used, int((1 - _LEAST_ROWS_SHARE) * memory_bytes) // slot_bytes))
        rows_bytes = min(int(_ROWS_SHARE * memory_bytes), memory_bytes - n_least * slot_bytes)
        n_rows = min(_MOST_ROWS, rows_bytes // row_bytes)
        n_in_model = max(n_used, experts.expert_bytes // slot_bytes)
        n_slots = min(_MOST_SLOTS, n_in_model, (memory_bytes - n_rows * row_bytes) // slot_bytes)
        n_read = min(n_slots, experts.n_experts, max(1, _READ_BYTES // slot_bytes))
        return cls(n_slots, n_rows, n_read) if n_rows >= n_used else None


@dataclass(frozen=True, slots=True)
class Way:
    """A graph over some experts.

    Attributes:
        address: of the ggml_cgraph.
        n_pairs: of token and expert that a call computes.
        turn: points it at the experts of a call, by the call's number.
    """

    address: int
    n_pairs: int
    turn: Callable[[int], None]


class ExpertBench:
    """See the module. Close it, before the maker.

    Attributes:
        results: float32 (n_rows, n_embd): what the last call computed, a row a pair.
    """

    def __init__(  # noqa: PLR0917 - what slots are made of
        self, ggml: Ggml, maker: LayoutMaker, loader: ExpertLoader, position: int, layout: SlotLayout, size: BenchSize
    ) -> None:
        """Read and repeat experts.

        Args:
            ggml: the library.
            maker: of the layout.
            loader: reads; it is closed if reading fails.
            position: of the layer in the loader's expert map.
            layout: of that layer.
            size: what to hold.

        Raises:
            ExpertReadFailed: the model's file cannot be read.
        """
        self.layout, self.size = layout, size
        self._space = SlotSpace(ggml, maker, layout.slot_bytes, size.n_slots)
        self._space.memory.prefer_huge_pages(size.n_slots)
        self._graphs: list[TokenGraph | GatheredGraph | IndexedGraph] = []
        buffers = self._space.buffers(layout)
        self._kit = GraphKit(ggml, layout, buffers, SWIGLU, Scratch(layout.n_embd, layout.n_ff, size.n_rows))
        self._x = np.random.default_rng(0).standard_normal((size.n_rows, layout.n_embd), dtype=np.float32)
        self.results = np.zeros_like(self._x)
        self._row_bytes = layout.n_embd * FLOAT_BYTES
        try:
            self._fill(loader, position, buffers)
        except BaseException:
            loader.close()  # before its destinations go
            self.close()
            raise

    def way(self, operation: str, n_tokens: int, n_experts: int) -> Way:
        """Return a graph of `n_experts` experts with `n_tokens` each.

        Args:
            operation: "id" or "expert".
            n_tokens: an expert; one: of the same token, as in generation.
            n_experts: at most as many as there are slots, and so many that the pairs are no more than the rows.
        """
        if operation == "id":
            return self._indexed(n_tokens, n_experts)
        return self._single(n_experts) if n_tokens == 1 else self._gathered(n_tokens, n_experts)

    def close(self) -> None:
        """Free graphs and slots."""
        while self._graphs:
            self._graphs.pop().free()
        self._space.close()
        self._space.memory.release(0, self.size.n_slots)

    def _fill(self, loader: ExpertLoader, position: int, buffers: SlotBuffers) -> None:
        """Bytes in a slot do not depend on where it lies, in any layout, so they can be repeated."""
        memory, n_read = self._space.memory, self.size.n_read
        tickets = [loader.load(position, expert, self.layout, buffers, memory.slot(expert)) for expert in range(n_read)]
        for ticket in tickets:
            ticket.wait()
        for index in range(n_read, self.size.n_slots):
            ctypes.memmove(memory.slot(index), memory.slot(index % n_read), self.layout.slot_bytes)

    def _next(self, turn: int, n_experts: int) -> Indexes:
        """Return the slots of a call, one after the other around."""
        return np.arange(turn * n_experts, (turn + 1) * n_experts, dtype=np.int32) % np.int32(self.size.n_slots)

    def _single(self, n_experts: int) -> Way:
        graph = TokenGraph(self._kit, n_experts)
        self._graphs.append(graph)
        graph.set_input(self._x.ctypes.data)
        graph.set_outputs([self.results.ctypes.data + row * self._row_bytes for row in range(n_experts)])
        memory = self._space.memory

        def turn(number: int) -> None:
            graph.set_experts([memory.slot(slot) for slot in self._next(number, n_experts).tolist()])

        return Way(graph.address, n_experts, turn)

    def _gathered(self, n_tokens: int, n_experts: int) -> Way:
        graph = GatheredGraph(self._kit, n_experts)
        self._graphs.append(graph)
        self._set_pairs(graph, n_tokens, n_experts)
        address, slot_bytes = self._space.memory.address, self.layout.slot_bytes
        counts: Counts = np.full(n_experts, n_tokens, dtype=np.int64)

        def turn(number: int) -> None:
            slots: Words = self._next(number, n_experts).astype(np.uint64) * np.uint64(slot_bytes) + np.uint64(address)
            graph.prepare(slots, counts)

        return Way(graph.address, n_tokens * n_experts, turn)

    def _indexed(self, n_tokens: int, n_experts: int) -> Way:
        graph = IndexedGraph(self._kit, self.size.n_slots, self.layout.slot_bytes)
        self._graphs.append(graph)
        self._set_pairs(graph, n_tokens, n_experts)
        address = self._space.memory.address

        def turn(number: int) -> None:
            graph.prepare(address, np.repeat(self._next(number, n_experts), n_tokens))

        return Way(graph.address, n_tokens * n_experts, turn)

    def _set_pairs(self, graph: GatheredGraph | IndexedGraph, n_tokens: int, n_experts: int) -> None:
        """Send every token to every expert, pairs sorted by expert."""
        n_pairs = n_tokens * n_experts
        tokens = np.tile(np.arange(n_tokens, dtype=np.int32), n_experts)
        rows = np.arange(n_pairs, dtype=np.int32)
        graph.set_pairs((self._x.ctypes.data, n_tokens), (self.results.ctypes.data, n_pairs), tokens, rows)
