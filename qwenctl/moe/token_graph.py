"""The graph of one token through k experts, a product an expert; the experts' addresses change from call to call.

    x ─► k × (gate | up) ─► GLU of all k ─► k × down ─► k rows of the layer's output

Gate and up lie together in a slot and are one product. Only `data` of headers is written, a word each, through a view
of the context's memory. Which experts and where they lie is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwenctl.moe.ggml_calls import TensorContext, address_of
from qwenctl.moe.graph_tensors import FLOAT_BYTES, GraphKit, set_nodes


class TokenGraph:
    """One token through `k` experts; the scratch has rows for k at least, gate and up are joined in the layout."""

    def __init__(self, kit: GraphKit, k: int) -> None:
        layout, scratch = kit.layout, kit.scratch
        n_embd, n_ff = layout.n_embd, layout.n_ff
        self._context = context = TensorContext(kit.ggml, 10 + 5 * k, (4 * k + 8,))
        x = kit.rows(context, n_embd)
        gates = [kit.weights(context, 0, 2 * n_ff) for _ in range(k)]
        downs = [kit.weights(context, -1, n_embd) for _ in range(k)]
        first = [
            kit.product(context, weights, x, scratch.gate_up + i * 2 * n_ff * FLOAT_BYTES)
            for i, weights in enumerate(gates)
        ]
        glu = kit.joined_glu(context, k)
        last = [
            kit.product(context, weights, kit.rows(context, n_ff, scratch.glu + i * n_ff * FLOAT_BYTES))
            for i, weights in enumerate(downs)
        ]
        self._graph = context.graph(4 * k + 8)
        set_nodes(context, self._graph, [*first, glu, *last])
        self.address = address_of(self._graph)
        self._words = context.words.data
        self._at_x = context.word_of(x, "data")
        self._at_out = [context.word_of(one, "data") for one in last]
        self._at_experts = [
            (context.word_of(gate, "data"), context.word_of(down, "data"))
            for gate, down in zip(gates, downs, strict=True)
        ]
        self._down_offset = layout.matrices[-1].offset_bytes

    def set_input(self, x: int) -> None:
        """Point at the token: the address of n_embd floats."""
        self._words[self._at_x] = x

    def set_outputs(self, rows: Sequence[int]) -> None:
        """Point at where the experts' results go: k addresses of n_embd floats."""
        words = self._words
        for index, row in zip(self._at_out, rows, strict=True):
            words[index] = row

    def set_experts(self, slots: Sequence[int]) -> None:
        """Point at the experts: k addresses of slots."""
        words, down_offset = self._words, self._down_offset
        for (gate, down), slot in zip(self._at_experts, slots, strict=True):
            words[gate] = slot
            words[down] = slot + down_offset

    def expert_words(self) -> tuple[list[int], list[int]]:
        """Return the addresses of the words that `set_experts` writes: of first and of last matrices."""
        first = [int(self._context.words[gate:].ctypes.data) for gate, _ in self._at_experts]
        return first, [int(self._context.words[down:].ctypes.data) for _, down in self._at_experts]

    def free(self) -> None:
        """Free the graph."""
        self._context.free()
