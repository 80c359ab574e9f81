"""Many tokens through one layer, or one where MUL_MAT_ID is used: what is in RAM first, the rest as it arrives.

When all routed experts are there and MUL_MAT_ID is the operation, llama.cpp's own nodes are computed, pointed at the
pool's slots (`DirectNodes`); for one token by the compiled path (token_path.py). Otherwise waves.py sorts the pairs by
expert.
"""

from __future__ import annotations

import ctypes
from time import perf_counter_ns

import numpy as np
import numpy.typing as npt

from qwenctl.moe.expert_pools import LayerSlots
from qwenctl.moe.ggml_calls import TensorContext, address_of, rows_at
from qwenctl.moe.graph_tensors import I32, slots_tensor
from qwenctl.moe.layer_call import LayerCall
from qwenctl.moe.token_path import MOST_USED, LoggedStep
from qwenctl.moe.waves import DECODE_TOKENS, Waves
from qwenctl.moe.workbench import Workbench

_FOLLOWED_TOKENS = 2  # of a prompt whose experts stream


class DirectNodes:
    """llama.cpp's own nodes of a layer, pointed at the pool's slots: MUL_MAT_ID when all that is routed is there.

    Attributes:
        ids: int32 (n_tokens, n_used), to be filled with slot numbers.
    """

    def __init__(self, bench: Workbench, layer: LayerSlots, call: LayerCall) -> None:
        self._context = context = TensorContext(bench.ggml, 6)
        self.address = call.graph
        self.ids = np.zeros((call.n_tokens, call.n_used), dtype=np.int32)
        ids = context.tensor(I32, call.n_used, call.n_tokens)
        ids.buffer, ids.data = layer.buffers.by_type[0], self.ids.ctypes.data
        n_experts = layer.layer.n_experts
        for index, matrix in enumerate(layer.layout.matrices):
            weights = slots_tensor(context, layer.layout, layer.buffers, index, n_experts, layer.slot_bytes)
            weights.data = layer.address + matrix.offset_bytes
            node = call.products[matrix.kind]
            node.src[0], node.src[2] = address_of(weights), address_of(ids)

    def free(self) -> None:
        """Free the headers that the nodes point to."""
        self._context.free()


class BatchStep:
    """Tokens of one or many sequences through one layer: experts sorted, computed in waves as they are there."""

    def __init__(self, bench: Workbench, position: int, call: LayerCall, uid: int = 0) -> None:
        self._bench, self._position, self._call = bench, position, call
        self._layer = bench.pools[position]
        in_waves = bench.is_per_expert(call.n_tokens) or bench.watch is not None
        self._direct = None if in_waves else DirectNodes(bench, self._layer, call)
        self._logged: LoggedStep | None = None
        if self._direct is not None and call.n_tokens == 1 and bench.path and uid and call.n_used <= MOST_USED:
            numbers = self._direct.ids[0]
            self._logged = LoggedStep(uid, call.ids, call.n_used, call.n_ranked, self._layer.ready, numbers)
            bench.path.add(self._logged)
        n_words = call.ids_row_bytes // 4
        words = (ctypes.c_int32 * (n_words * (call.n_tokens - 1) + call.n_ranked)).from_address(call.ids)
        rows: npt.NDArray[np.int32] = np.lib.stride_tricks.as_strided(
            np.ctypeslib.as_array(words), (call.n_tokens, call.n_ranked), (call.ids_row_bytes, 4), writeable=False
        )
        self._ids = rows[:, : call.n_used]
        # What a prompt's tokens nearly chose is of no use for what comes after it.
        self._ranking = rows if call.n_ranked > call.n_used and call.n_tokens <= DECODE_TOKENS else None

    def __call__(self) -> int:
        """Compute; returns a ggml_status."""
        bench, layer, call = self._bench, self._layer, self._call
        began = perf_counter_ns()
        self.drain()
        routed = self._ids.flatten()  # a copy: the output may lie over the ids, too
        self._tell(routed)
        counts = np.bincount(routed, minlength=layer.layer.n_experts)
        experts = np.flatnonzero(counts).tolist()
        layer.settle()
        absent = self._use(experts, routed)
        phase = bench.stats.of(call.n_tokens)
        phase.count(len(experts), len(absent))
        if self._direct is not None and not absent and not layer.loading:
            self._direct.ids.ravel()[:] = np.asarray(layer.pool.slot_of, dtype=np.int32)[routed]
            ready = perf_counter_ns()
            status = bench.compute(self._direct.address)
            computed = perf_counter_ns()
            phase.compute_ns += computed - ready
            if call.n_tokens == 1:
                bench.stats.resident_overhead_ns.append(ready - began)
            return status
        return Waves(bench, self._position, call, routed, counts).run(experts, absent)

    def drain(self) -> None:
        """Tell the layer what the compiled path has used."""
        if self._logged is not None:
            for experts, ranking in self._logged.drain():
                self._layer.use(experts, ranking)

    def close(self) -> None:
        """Free what the graph of llama.cpp's was pointed at; it is not used any more."""
        if self._direct is not None:
            self._direct.free()

    def _tell(self, routed: npt.NDArray[np.int32]) -> None:
        """Tell whoever records the routing, and whoever watches what is multiplied."""
        call = self._call
        if self._bench.record is not None:
            rows = routed if self._ranking is None else self._ranking.ravel()
            self._bench.record(self._position, rows.tolist(), call.n_tokens, len(rows) // call.n_tokens)
        if self._bench.watch is not None:
            x = rows_at(call.x, call.n_tokens, call.n_embd)
            self._bench.watch.saw_input(call.layer, x, routed.reshape(call.n_tokens, call.n_used))

    def _use(self, experts: list[int], routed: npt.NDArray[np.int32]) -> list[int]:
        """Note the uses; return the absent experts. If experts must stream, only the last tokens tell what is next."""
        layer = self._layer
        if len(experts) <= layer.pool.n_slots:
            return layer.use(experts, self._ranking)
        for last in routed[-_FOLLOWED_TOKENS * self._call.n_used :].reshape(-1, self._call.n_used).tolist():
            layer.pool.use(last)
        return [expert for expert in experts if layer.pool.slot_of[expert] < 0]
