"""Graphs of many (token, expert) pairs: rows gathered by token, multiplied by expert, scattered to their places.

    GatheredGraph   pairs sorted by expert, a MUL_MAT an expert, its weights at any address
    IndexedGraph    one MUL_MAT_ID a matrix over slots that follow each other

    rows of x ─► gate, up ─► GLU ─► down ─► rows of the layer's output         all rows in the scratch in between

The number of experts and pairs changes from call to call: `data`, `ne[1]` and the strides that follow from it are
written into the headers, many at once. ggml's CPU backend reads a graph as a list of nodes, so leaving some out is
enough to leave their work out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qwenctl.moe.ggml_calls import TensorContext, address_of, at
from qwenctl.moe.graph_tensors import FLOAT_BYTES, GraphKit, computed, set_nodes

Words = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]
Indexes = npt.NDArray[np.int32]


class GatheredGraph:
    """Up to `n_experts` experts at once, and as many pairs as the scratch has rows; gate and up joined."""

    def __init__(self, kit: GraphKit, n_experts: int) -> None:
        layout, scratch = kit.layout, kit.scratch
        n_embd, n_ff = layout.n_embd, layout.n_ff
        self._kit, self.n_experts, self.n_rows = kit, n_experts, scratch.n_rows
        self.hidden = scratch.glu  # address of f32 (pairs, n_ff), the input of down, once the graph was computed
        self._context = context = TensorContext(kit.ggml, 20 + 8 * n_experts, (4 * n_experts + 16,))
        self._ends = _Ends(kit, context)
        gates = [kit.weights(context, 0, 2 * n_ff) for _ in range(n_experts)]
        downs = [kit.weights(context, -1, n_embd) for _ in range(n_experts)]
        rows, hidden = ([kit.rows(context, width) for _ in range(n_experts)] for width in (n_embd, n_ff))
        first = [kit.product(context, *pair) for pair in zip(gates, rows, strict=True)]
        last = [kit.product(context, *pair) for pair in zip(downs, hidden, strict=True)]
        glu = kit.joined_glu(context, 1)
        self._n_glu = [context.word_of(one, "ne") + 1 for one in (glu, at(glu.src[0]), at(glu.src[1]))]
        self._graph = context.graph(4 * n_experts + 16)
        self.address = address_of(self._graph)
        self._first = _RowFamilies(context, [(rows, n_embd, scratch.rows), (first, 2 * n_ff, scratch.gate_up)])
        self._last = _RowFamilies(context, [(hidden, n_ff, scratch.glu), (last, n_embd, scratch.rows)])
        self._at_gates = np.array([context.word_of(one, "data") for one in gates])
        self._at_downs = np.array([context.word_of(one, "data") for one in downs])
        self._down_offset = np.uint64(layout.matrices[-1].offset_bytes)
        self._nodes = [np.array([address_of(one) for one in nodes], dtype=np.uint64) for nodes in (first, last)]
        self._glu = np.array([address_of(glu)], dtype=np.uint64)
        self._at_nodes = context.index_of(int(self._graph.nodes))

    def prepare(self, slots: Words, counts: Counts) -> None:
        """Say which experts, and how many pairs each.

        Args:
            slots: uint64 (n,) addresses of the experts' slots, n at most `n_experts`.
            counts: int64 (n,) pairs of each, at least one; their sum at most `n_rows`.
        """
        n, words = len(slots), self._context.words
        starts = np.cumsum(counts) - counts
        words[self._at_gates[:n]] = slots
        words[self._at_downs[:n]] = slots + self._down_offset
        self._first.set(words, counts, starts)
        self._last.set(words, counts, starts)
        for index in self._n_glu:
            words[index] = counts.sum()
        nodes = np.concatenate([self._ends.first, self._nodes[0][:n], self._glu, self._nodes[1][:n], self._ends.last])
        words[self._at_nodes : self._at_nodes + len(nodes)] = nodes
        self._graph.n_nodes = len(nodes)

    def set_pairs(self, x: tuple[int, int], out: tuple[int, int], tokens: Indexes, places: Indexes) -> None:
        """Point at input and output.

        Args:
            x: address and number of float rows (n, n_embd).
            out: address and number of float rows (n, n_embd).
            tokens: int32 (pairs,) row of x of each pair.
            places: int32 (pairs,) row of `out` of each pair.
        """
        self._ends.set(x, out, tokens, places)

    def free(self) -> None:
        """Free the graph."""
        self._context.free()


class IndexedGraph:
    """As many pairs as the scratch has rows, over `n_slots` slots that lie `slot_bytes` apart."""

    def __init__(self, kit: GraphKit, n_slots: int, slot_bytes: int) -> None:
        layout, scratch = kit.layout, kit.scratch
        n_ff = layout.n_ff
        self.hidden = scratch.glu  # as GatheredGraph
        self._context = context = TensorContext(kit.ggml, 40, (16,))
        self._ends = _Ends(kit, context)
        self._ids = kit.numbers(context)
        rows = kit.rows(context, layout.n_embd, scratch.rows)
        weights = [kit.slots(context, index, n_slots, slot_bytes) for index in range(len(layout.matrices))]
        self._weights = [
            (context.word_of(one, "data"), matrix.offset_bytes)
            for one, matrix in zip(weights, layout.matrices, strict=True)
        ]
        products, halves = [], []
        for index, matrix in enumerate(layout.matrices[:-1]):
            data = scratch.gate_up + index * scratch.n_rows * n_ff * FLOAT_BYTES
            products.append(kit.indexed_product(context, weights[index], rows, self._ids, data))
            halves += [(data + half * n_ff * FLOAT_BYTES, matrix.n_out) for half in range(matrix.n_out // n_ff)]
        gate, up = (kit.strided(context, n_ff, width, data) for data, width in halves)
        glu = kit.glu(context, gate, up)
        hidden = kit.rows(context, n_ff, scratch.glu)
        down = kit.indexed_product(context, weights[-1], hidden, self._ids, scratch.rows)
        self._graph = context.graph(16)
        set_nodes(context, self._graph, [self._ends.gather, *products, glu, down, self._ends.scatter])
        self.address = address_of(self._graph)
        self._n_pairs = [context.word_of(one, "ne") + 2 for one in (rows, hidden, down, *products)]
        self._n_pairs += [context.word_of(one, "ne") + 1 for one in (self._ids, gate, up, glu)]
        self._at_ids = context.word_of(self._ids, "data")
        self._numbers: Indexes | None = None

    def prepare(self, slots_address: int, numbers: Indexes) -> None:
        """Say where the slots lie and the slot's number of each pair: int32 (pairs,), in any order."""
        words = self._context.words
        for index, offset in self._weights:
            words[index] = slots_address + offset
        for index in self._n_pairs:
            words[index] = len(numbers)
        self._numbers = numbers  # kept alive while the graph points at it
        words[self._at_ids] = numbers.ctypes.data

    def set_pairs(self, x: tuple[int, int], out: tuple[int, int], tokens: Indexes, places: Indexes) -> None:
        """Point at input and output: as GatheredGraph."""
        self._ends.set(x, out, tokens, places)

    def free(self) -> None:
        """Free the graph."""
        self._context.free()


class _Ends:
    """The first node, rows of x by token, and the last, rows of the output by pair."""

    def __init__(self, kit: GraphKit, context: TensorContext) -> None:
        n_embd = kit.layout.n_embd
        self._context = context
        x, out = kit.rows(context, n_embd), kit.rows(context, n_embd)
        tokens, places = kit.numbers(context), kit.numbers(context)
        results = kit.rows(context, n_embd, kit.scratch.rows)
        self.gather = computed(kit.ggml.ggml_get_rows(context.handle, address_of(x), address_of(tokens)))
        arguments = (address_of(out), address_of(results), address_of(places))
        self.scatter = computed(kit.ggml.ggml_set_rows(context.handle, *arguments))
        self.gather.buffer = self.scatter.buffer = kit.plain
        self.gather.data = kit.scratch.rows
        self.first = np.array([address_of(self.gather)], dtype=np.uint64)
        self.last = np.array([address_of(self.scatter)], dtype=np.uint64)
        self._x = context.word_of(x, "data"), context.word_of(x, "ne") + 1
        self._out = [(context.word_of(one, "data"), context.word_of(one, "ne") + 1) for one in (out, self.scatter)]
        self._at_indexes = context.word_of(tokens, "data"), context.word_of(places, "data")
        self._n_pairs = [context.word_of(one, "ne") for one in (tokens, places)]
        self._n_pairs += [context.word_of(one, "ne") + 1 for one in (self.gather, results)]
        self._kept: tuple[Indexes, Indexes] | None = None

    def set(self, x: tuple[int, int], out: tuple[int, int], tokens: Indexes, places: Indexes) -> None:
        """Point at (address, rows) of input and output, and say which rows."""
        words = self._context.words
        self._kept = tokens, places
        words[self._x[0]], words[self._x[1]] = x
        for at_data, at_rows in self._out:
            words[at_data], words[at_rows] = out
        words[self._at_indexes[0]], words[self._at_indexes[1]] = tokens.ctypes.data, places.ctypes.data
        for index in self._n_pairs:
            words[index] = len(tokens)


class _RowFamilies:
    """Tensors of float rows, several families of them: `data`, `ne[1]`, `nb[2]`, `nb[3]` set for many at once.

    Args:
        families: tensors, floats a row, address of row 0.
    """

    def __init__(self, context: TensorContext, families: Sequence[tuple[list[Any], int, int]]) -> None:
        self._families = [
            (
                width * FLOAT_BYTES,
                base,
                np.array([context.word_of(one, "data") for one in tensors]),
                np.array([context.word_of(one, "ne") + 1 for one in tensors]),
                np.array([context.word_of(one, "nb") + 2 for one in tensors]),
            )
            for tensors, width, base in families
        ]

    def set(self, words: Words, counts: Counts, starts: Counts) -> None:
        """Give the first tensors of every family `counts` rows from row `starts` on."""
        n = len(counts)
        for row_bytes, base, at_data, at_ne1, at_nb2 in self._families:
            words[at_data[:n]] = starts * row_bytes + base
            words[at_ne1[:n]] = counts
            words[at_nb2[:n]] = words[at_nb2[:n] + 1] = counts * row_bytes
