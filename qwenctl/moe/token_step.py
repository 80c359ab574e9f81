"""One token through one layer: hits are computed while misses are read into the layer's pool, then the misses.

A step is made once for a graph of llama.cpp's and called for every token that reuses the graph; all that can be decided
then is. The hot path of the whole program is TokenStep.__call__ with every routed expert in RAM.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from time import perf_counter_ns

import numpy as np

from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.graph_tensors import FLOAT_BYTES
from qwenctl.moe.layer_call import LayerCall
from qwenctl.moe.token_graph import TokenGraph
from qwenctl.moe.token_path import MOST_USED, ExpertWords, LoggedStep
from qwenctl.moe.workbench import Workbench

_DONE = abi.GGML_STATUS_SUCCESS


class TokenStep:
    """One token through one layer, a product an expert."""

    def __init__(self, bench: Workbench, position: int, call: LayerCall, graph: TokenGraph, uid: int = 0) -> None:
        self._bench, self._position, self._call, self._graph = bench, position, call, graph
        self._layer = layer = bench.pools[position]
        self._ids = (ctypes.c_int32 * call.n_used).from_address(call.ids)
        ranked = (ctypes.c_int32 * call.n_ranked).from_address(call.ids)
        self._ranking = np.ctypeslib.as_array(ranked).reshape(1, -1) if call.n_ranked > call.n_used else None
        row_bytes = layer.layout.n_embd * FLOAT_BYTES
        self._x = call.x  # of parts: where the input is while rows of the output are written
        self._rows = [call.out + i * row_bytes for i in range(call.n_used)]
        graph.set_input(call.x)
        graph.set_outputs(self._rows)
        # Looked up once: this is the hot path.
        self._pool, self._slot_of, self._loading = layer.pool, layer.pool.slot_of, layer.loading
        self._base, self._stride = layer.address, layer.slot_bytes
        self._compute, self._cpu, self._address = bench.ggml.graph_compute, bench.cpu, graph.address
        self._stats, self._record = bench.stats, bench.record
        self._logged: LoggedStep | None = None
        if bench.path and uid and call.n_used <= MOST_USED:
            down_offset = layer.layout.matrices[-1].offset_bytes
            words = ExpertWords(layer.address, layer.slot_bytes, down_offset, *graph.expert_words(), graph.address)
            self._logged = LoggedStep(uid, call.ids, call.n_used, call.n_ranked, layer.ready, words)
            bench.path.add(self._logged)

    def __call__(self) -> int:
        """Compute; returns a ggml_status."""
        began = perf_counter_ns()
        self.drain()
        ids, ranking = self._ids[:], self._ranking
        absent = self._layer.use(ids, ranking)
        self._tell(ids)
        if absent or self._loading:
            return self._with_misses(ids, absent, began)
        self._read_ahead(ids)
        slot_of, base, stride = self._slot_of, self._base, self._stride
        self._graph.set_experts([base + slot_of[expert] * stride for expert in ids])
        stats = self._stats
        ready = perf_counter_ns()
        status = self._compute(self._cpu, self._address)
        computed = perf_counter_ns()
        stats.token.count(len(ids), 0)
        stats.token.compute_ns += computed - ready
        stats.resident_overhead_ns.append(ready - began + perf_counter_ns() - computed)
        return int(status)

    def drain(self) -> None:
        """Tell the layer what the compiled path has used."""
        if self._logged is not None:
            for experts, ranking in self._logged.drain():
                self._layer.use(experts, ranking)

    def _tell(self, ids: list[int]) -> None:
        """Tell whoever records the routing."""
        if self._record is not None:
            row = ids if self._ranking is None else self._ranking[0].tolist()
            self._record(self._position, row, 1, len(row))

    def _read_ahead(self, ids: list[int]) -> None:
        prefetcher = self._bench.prefetcher
        if prefetcher is not None and prefetcher.is_on:
            prefetcher.after_routing(self._position, ids, self._call.x)

    def _with_misses(self, ids: list[int], absent: list[int], began: int) -> int:
        bench, layer, stats = self._bench, self._layer, self._stats
        layer.settle()
        for expert in absent:
            bench.load(self._position, expert, ids, by_waiter=True)
        self._read_ahead(ids)
        self._x = bench.input_of(self._call)
        stats.token.count(len(ids), len(absent))
        status, computed_ns, waited_ns = self._in_parts(ids, range(len(ids)))
        stats.missing_overhead_ns.append(perf_counter_ns() - began - computed_ns - waited_ns)
        return status

    def _in_parts(self, ids: list[int], places: Iterable[int]) -> tuple[int, int, int]:
        """Compute the experts at these places of the token's: those that are there, then those on their way.

        Returns:
            A ggml_status, nanoseconds of computing, and of waiting.
        """
        layer = self._layer
        here: list[int] = []
        coming: list[int] = []
        for place in places:
            (coming if ids[place] in layer.loading else here).append(place)
        status, computed_ns = self._part(ids, here) if here else (_DONE, 0)
        if not coming or status != _DONE:
            return status, computed_ns, 0
        experts = [ids[place] for place in coming]
        self._bench.hurry(self._position, experts)
        began = perf_counter_ns()
        layer.wait_for(experts)
        waited_ns = perf_counter_ns() - began
        self._stats.token.wait_ns += waited_ns
        status, more_ns = self._part(ids, coming)
        return status, computed_ns + more_ns, waited_ns

    def _part(self, ids: list[int], places: list[int]) -> tuple[int, int]:
        """Compute some of the token's experts. Returns status and nanoseconds."""
        graph = self._graph
        if len(places) < len(ids):
            graph = self._bench.token_graph(self._layer, len(places), self._call.glu_params)
            graph.set_input(self._x)
            graph.set_outputs([self._rows[place] for place in places])
        slot_of, base, stride = self._slot_of, self._base, self._stride
        graph.set_experts([base + slot_of[ids[place]] * stride for place in places])
        began = perf_counter_ns()
        status = int(self._compute(self._cpu, graph.address))
        spent = perf_counter_ns() - began
        self._stats.token.compute_ns += spent
        return status, spent
