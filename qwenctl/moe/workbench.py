"""What the steps of an opened model share: the CPU backend, graphs, scratch memory, pools, ring, loader, counters.

Graphs are made on first use and kept: equal layers share those whose every address is set anew for each call. They are
computed one after the other, so scratch memory is shared too. Decides nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from qwenctl.moe.expert_loader import ExpertLoader
from qwenctl.moe.expert_pools import LayerSlots
from qwenctl.moe.expert_watch import ExpertWatch
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.graph_tensors import GraphKit, Scratch
from qwenctl.moe.layer_call import LayerCall
from qwenctl.moe.offload_stats import OffloadStats
from qwenctl.moe.pair_graphs import GatheredGraph, IndexedGraph
from qwenctl.moe.slot_layout import SlotLayout
from qwenctl.moe.stream_ring import StreamRing
from qwenctl.moe.token_graph import TokenGraph
from qwenctl.moe.token_path import TokenPath

MOST_WAVE_EXPERTS = 64  # of one GatheredGraph
_TOKEN_ROWS = 64  # scratch of graphs for one token: most experts that a token may use


class Prefetching(Protocol):
    """What a step tells whoever reads ahead (prefetcher.py)."""

    is_on: bool

    def after_routing(self, position: int, ids: Sequence[int], x: int) -> None:
        """The routed experts of a layer, and the address of its input."""


Recorder = Callable[[int, list[int], int, int], None]


@dataclass(slots=True)
class Workbench:
    """See the module.

    Attributes:
        ggml: the library.
        cpu: a CPU backend of ggml's, for our graphs only.
        loader: reads experts.
        pools: the layers, in the order of the expert map.
        ring: slots for streaming.
        stats: counters.
        decode_per_expert: compute single tokens with a product an expert (True) or MUL_MAT_ID (False).
        batch_per_expert: the same for many tokens at once.
        wave_rows: pairs of (token, expert) that one graph computes at most.
        record: called with a layer's position, ids, n_tokens and how many ids each token has: the routed ones, or, in
            generation, the router's whole ranking; None: nothing is recorded.
        watch: is told what the experts multiply; None: nobody is. Set, all is computed in waves.
        path: the compiled hot path; None: Python computes all.
        prefetcher: reads ahead; None: nothing is.
    """

    ggml: Ggml
    cpu: int
    loader: ExpertLoader
    pools: Sequence[LayerSlots]
    ring: StreamRing
    stats: OffloadStats
    decode_per_expert: bool
    batch_per_expert: bool
    wave_rows: int
    record: Recorder | None = None
    watch: ExpertWatch | None = None
    path: TokenPath | None = None
    prefetcher: Prefetching | None = None
    _input: npt.NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, dtype=np.uint8))
    _scratch: dict[tuple[int, int, int], Scratch] = field(default_factory=dict)
    _token_graphs: dict[tuple[SlotLayout, bytes, int], TokenGraph] = field(default_factory=dict)
    _gathered: dict[tuple[SlotLayout, bytes], GatheredGraph] = field(default_factory=dict)
    _indexed: dict[tuple[SlotLayout, bytes, bool], IndexedGraph] = field(default_factory=dict)
    _own: dict[tuple[int, bytes, int], TokenGraph] = field(default_factory=dict)

    def is_per_expert(self, n_tokens: int) -> bool:
        """Return whether so many tokens are computed with a product an expert."""
        return self.decode_per_expert if n_tokens == 1 else self.batch_per_expert

    def compute(self, graph: int) -> int:
        """Compute a graph on the CPU; returns a ggml_status."""
        return int(self.ggml.graph_compute(self.cpu, graph))

    def token_graph(self, layer: LayerSlots, k: int, glu_params: bytes) -> TokenGraph:
        """Return a graph of k experts for one token: for steps that compute in parts, shared by equal layers."""
        key = (layer.layout, glu_params, k)
        if key not in self._token_graphs:
            self._token_graphs[key] = TokenGraph(self._kit(layer, glu_params, _TOKEN_ROWS), k)
        return self._token_graphs[key]

    def layer_token_graph(self, position: int, k: int, glu_params: bytes) -> TokenGraph:
        """Return a layer's own graph of k experts for one token, whose input and outputs may stay set."""
        key = (position, glu_params, k)
        if key not in self._own:
            self._own[key] = TokenGraph(self._kit(self.pools[position], glu_params, _TOKEN_ROWS), k)
        return self._own[key]

    def gathered_graph(self, layer: LayerSlots, glu_params: bytes) -> GatheredGraph:
        """Return the graph of a product an expert."""
        key = (layer.layout, glu_params)
        if key not in self._gathered:
            self._gathered[key] = GatheredGraph(self._kit(layer, glu_params, self.wave_rows), MOST_WAVE_EXPERTS)
        return self._gathered[key]

    def indexed_graph(self, layer: LayerSlots, glu_params: bytes, *, in_ring: bool) -> IndexedGraph:
        """Return the MUL_MAT_ID graph over the slots of a pool, or of the ring."""
        key = (layer.layout, glu_params, in_ring)
        if key not in self._indexed:
            kit = self._kit(layer, glu_params, self.wave_rows)
            n_slots, slot_bytes = layer.layer.n_experts, layer.slot_bytes
            if in_ring:
                n_slots, slot_bytes = self.ring.n_slots, self.ring.slot_bytes
            self._indexed[key] = IndexedGraph(kit, n_slots, slot_bytes)
        return self._indexed[key]

    def load(
        self, position: int, expert: int, keep: Sequence[int], *, urgent: bool = True, by_waiter: bool = False
    ) -> None:
        """Give an absent expert a slot in its layer's pool and begin to read it.

        Raises:
            ValueError: every slot holds an expert that must stay.
        """
        layer = self.pools[position]
        while True:
            try:
                address, evicted = layer.admit(expert, keep)
                break
            except ValueError:
                if not urgent or not layer.give_up_one(keep):
                    raise
        if evicted >= 0:
            self.stats.n_evicted += 1
        layer.loading[expert] = self.loader.load(
            position, expert, layer.layout, layer.buffers, address, urgent=urgent, by_waiter=by_waiter
        )
        if not urgent:
            layer.leisurely.add(expert)

    def input_of(self, call: LayerCall) -> int:
        """Return where a call's input is while its output is being written, piece by piece: a copy if need be."""
        if not call.out_covers_x:
            return call.x
        if self._input.nbytes < call.x_bytes:
            self._input = np.empty(call.x_bytes, dtype=np.uint8)
        address = int(self._input.ctypes.data)
        ctypes.memmove(address, call.x, call.x_bytes)
        return address

    def hurry(self, position: int, experts: Sequence[int]) -> None:
        """Read these experts, which are on their way, before all that nobody waits for."""
        layer = self.pools[position]
        for expert in experts:
            if expert in layer.leisurely and layer.cancel(expert):
                self.load(position, expert, experts)

    def close(self) -> None:
        """Free the graphs."""
        for graph in (*self._own.values(), *self._token_graphs.values()):
            graph.free()
        for gathered in self._gathered.values():
            gathered.free()
        for indexed in self._indexed.values():
            indexed.free()
        for cache in (self._token_graphs, self._gathered, self._indexed):
            cache.clear()
        self._own.clear()

    def _kit(self, layer: LayerSlots, glu_params: bytes, n_rows: int) -> GraphKit:
        key = (layer.layout.n_embd, layer.layout.n_ff, n_rows)
        if key not in self._scratch:
            self._scratch[key] = Scratch(*key)
        return GraphKit(self.ggml, layer.layout, layer.buffers, glu_params, self._scratch[key])
