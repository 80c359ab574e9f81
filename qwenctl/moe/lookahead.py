"""Foretells the experts of the next layer from what this layer's experts are given: a product of ggml's a layer.

    x of layer p ─► folded router of layer p+1 (folded_router.py) ─► n_experts logits ─► the k best

Runs on the thread that computes, before the layer's own experts, so it is built for few microseconds: a graph a layer
made once, one header whose address is written, the ranking by one call of numpy. A prediction may be wrong; nothing
but reading ahead may hang on it. Knows nothing of slots.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quant.gguf_read import GgufFile
from quant.libggml import load_libggml
from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.expert_map import ExpertMap
from qwenctl.moe.folded_router import FloatArray, FoldedRouter, folded_routers, router_pairs
from qwenctl.moe.ggml_calls import Ggml, TensorContext, address_of
from qwenctl.moe.graph_tensors import computed, set_nodes

_F32 = abi.GGML_TYPE["F32"]
_DONE = abi.GGML_STATUS_SUCCESS
_ALIGNMENT = 64
_GRAPH_NODES = 8


def can_look_ahead(gguf: GgufFile, experts: ExpertMap) -> bool:
    """Return whether any layer's experts can be foretold. Rounding may still rule some out when they are read."""
    return bool(router_pairs(gguf, experts))


class RouterLookahead:
    """See the module. Close it before the backend is freed.

    Args:
        ggml: the library.
        cpu: the CPU backend to compute on, which this thread may use.
        gguf: the model's header.
        experts: its expert map; positions are those of its layers.

    Raises:
        ExpertReadFailed: a router cannot be read.
    """

    def __init__(self, ggml: Ggml, cpu: int, gguf: GgufFile, experts: ExpertMap) -> None:
        self._ggml, self._cpu = ggml, cpu
        routers = list(folded_routers(load_libggml(), gguf, experts))
        n_experts = max((len(router.rows) for router in routers), default=1)
        starts = _starts([n_experts * 4, *(router.rows.nbytes for router in routers)])
        self._memory = np.empty(starts[-1] + _ALIGNMENT, dtype=np.uint8)
        self.n_bytes = int(self._memory.nbytes)
        skip = -self._memory.ctypes.data % _ALIGNMENT
        memory = self._memory[skip : skip + starts[-1]]
        self._buffer = int(ggml.ggml_backend_cpu_buffer_from_ptr(memory.ctypes.data, memory.nbytes) or 0)
        self._context = TensorContext(ggml, 2 + 2 * len(routers), (_GRAPH_NODES,) * len(routers))
        self._x = self._header(_F32, experts.n_embd, 1, 0)
        self._at_x = self._context.word_of(self._x, "data")
        self._words = self._context.words.data
        self._compute = ggml.graph_compute
        self._graphs: list[int] = [0] * len(experts.layers)
        self._rankings: list[_Ranking | None] = [None] * len(experts.layers)
        while routers:  # each is dropped when it is copied, so that they are not all in memory twice
            router = routers.pop()
            start = starts[1 + len(routers)]
            memory[start : start + router.rows.nbytes] = router.rows.reshape(-1)
            address = int(memory.ctypes.data) + start
            self._graphs[router.position] = self._graph(router, address, int(memory.ctypes.data))
            logits = memory[: len(router.rows) * 4].view(np.float32)
            self._rankings[router.position] = _Ranking(logits, router)

    def predict(self, position: int, x: int, k: int) -> list[int]:
        """Return the experts of layer `position` + 1 that the input of layer `position` points to, the best first.

        Args:
            position: of a layer in the expert map.
            x: address of its input: f32 (n_embd,), normed and multiplied by the norm's weights.
            k: how many are wanted; at most all.

        Returns:
            `k` experts; none where nothing can be foretold, or where computing was broken off.
        """
        graph, ranking = self._graphs[position], self._rankings[position]
        if ranking is None:
            return []
        self._words[self._at_x] = x
        if self._compute(self._cpu, graph) != _DONE:
            return []
        return ranking.best(k)

    def can_predict(self, position: int) -> bool:
        """Return whether `predict` can say something about the layer after `position`."""
        return self._rankings[position] is not None

    def close(self) -> None:
        """Free graphs and routers."""
        self._graphs, self._rankings = [0] * len(self._graphs), [None] * len(self._rankings)
        self._context.free()
        buffer, self._buffer = self._buffer, 0
        if buffer:
            self._ggml.ggml_backend_buffer_free(buffer)
        self._memory = np.empty(0, dtype=np.uint8)
        self.n_bytes = 0

    def _header(self, type_id: int, n0: int, n1: int, data: int) -> Any:
        tensor = self._context.tensor(type_id, n0, n1)
        tensor.buffer, tensor.data = self._buffer, data or None
        return tensor

    def _graph(self, router: FoldedRouter, rows: int, logits: int) -> int:
        """Make the graph of one product; returns its address."""
        context = self._context
        n_experts, n_embd = len(router.rows), self._x.ne[0]
        weights = self._header(router.type.type_id, n_embd, n_experts, rows)
        node = computed(self._ggml.ggml_mul_mat(context.handle, address_of(weights), address_of(self._x)))
        node.buffer, node.data = self._buffer, logits
        graph = context.graph(_GRAPH_NODES)
        set_nodes(context, graph, [node])
        return address_of(graph)


class _Ranking:
    """The order of experts by what the router gives them."""

    def __init__(self, logits: FloatArray, router: FoldedRouter) -> None:
        self._logits = logits
        self._scores: npt.NDArray[np.float32] = np.empty_like(logits)
        self._logit_bias, self._bias, self._sigmoid = router.logit_bias, router.selection_bias, router.sigmoid

    def best(self, k: int) -> list[int]:
        """Return the k best."""
        scores = self._scores
        np.negative(self._logits, out=scores)  # so that the sort, which is upwards, has the best first
        if self._logit_bias is not None:
            scores -= self._logit_bias
        if self._bias is not None:
            self._apply_gate(scores, self._bias)
        best: list[int] = scores.argsort()[:k].tolist()
        return best

    def _apply_gate(self, scores: FloatArray, bias: FloatArray) -> None:
        """Make −logits into −(gate(logits) + bias): llm_graph_context::build_moe_ffn."""
        if self._sigmoid:
            np.exp(np.minimum(scores, 80.0), out=scores)
            np.reciprocal(scores + 1, out=scores)
        else:
            np.exp(scores.min() - scores, out=scores)
            scores /= scores.sum()
        scores += bias
        np.negative(scores, out=scores)


def _starts(sizes: list[int]) -> list[int]:
    """Return where stretches of these sizes begin, each aligned, and where the last ends."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
    return starts
