"""Tensor headers for our own graphs over slots: built once, pointed at data later. What all graphs here are made of.

Nodes are made by ggml's own constructors, so that they have the parameters its kernels expect; buffers and data are set
by hand, since nothing is allocated through ggml. Knows nothing of which graph is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.ggml_calls import Ggml, TensorContext, address_of, at
from qwenctl.moe.slot_layout import SlotLayout, SlotMatrix

F32, I32 = abi.GGML_TYPE["F32"], abi.GGML_TYPE["I32"]
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class SlotBuffers:
    """The ggml buffers over one memory of slots: by buffer type (0: plain), with what init_tensor puts into `extra`."""

    by_type: dict[int, int]
    extras: tuple[int, ...]  # one a matrix of the layout

    def of(self, matrix: SlotMatrix) -> int:
        """Return the buffer in which a matrix lies."""
        return self.by_type[matrix.buffer_type]


class Scratch:
    """Float rows between the nodes of a graph: `n_rows` of the residual stream's width and of gate, up and GLU."""

    def __init__(self, n_embd: int, n_ff: int, n_rows: int) -> None:
        self.n_rows = n_rows
        self._memory = np.empty(n_rows * (n_embd + 3 * n_ff) + 32, dtype=np.float32)
        self.rows = -(-self._memory.ctypes.data // 64) * 64
        self.gate_up = self.rows + n_rows * n_embd * FLOAT_BYTES
        self.glu = self.gate_up + 2 * n_rows * n_ff * FLOAT_BYTES

    @property
    def n_bytes(self) -> int:
        """Size."""
        return int(self._memory.nbytes)


@dataclass(frozen=True, slots=True)
class GraphKit:
    """What a graph over slots is built from.

    Attributes:
        ggml: the library.
        layout: of the slots.
        buffers: of any memory of that layout: the CPU backend looks only at their types.
        glu_params: op_params of the model's own GLU node, 64 bytes.
        scratch: rows between the nodes.
    """

    ggml: Ggml
    layout: SlotLayout
    buffers: SlotBuffers
    glu_params: bytes
    scratch: Scratch

    @property
    def plain(self) -> int:
        """The buffer of activations."""
        return self.buffers.by_type[0]

    def rows(self, context: TensorContext, n0: int, data: int = 0) -> Any:
        """Return f32 rows (1, n0) at an address."""
        tensor = context.tensor(F32, n0, 1)
        tensor.buffer, tensor.data = self.plain, data or None
        return tensor

    def numbers(self, context: TensorContext, n0: int = 1, n1: int = 1) -> Any:
        """Return i32 (n1, n0)."""
        tensor = context.tensor(I32, n0, n1)
        tensor.buffer = self.plain
        return tensor

    def strided(self, context: TensorContext, n0: int, row_width: int, data: int) -> Any:
        """Return f32 rows (1, n0) that are `row_width` floats apart."""
        tensor = self.rows(context, n0, data)
        tensor.nb[1] = tensor.nb[2] = tensor.nb[3] = row_width * FLOAT_BYTES
        return tensor

    def weights(self, context: TensorContext, index: int, n_rows: int) -> Any:
        """Return a matrix of one expert with `n_rows`: gate and up together have twice the rows of gate."""
        matrix = self.layout.matrices[index]
        tensor = context.tensor(matrix.type_id, matrix.n_in, n_rows)
        tensor.buffer, tensor.extra = self.buffers.of(matrix), self.buffers.extras[index] or None
        return tensor

    def slots(self, context: TensorContext, index: int, n_slots: int, slot_bytes: int) -> Any:
        """Return a matrix of all experts in slots that follow each other."""
        return slots_tensor(context, self.layout, self.buffers, index, n_slots, slot_bytes)

    def product(self, context: TensorContext, weights: Any, rows: Any, data: int = 0) -> Any:
        """Return the node rows × weights, its result at an address."""
        node = computed(self.ggml.ggml_mul_mat(context.handle, address_of(weights), address_of(rows)))
        node.buffer, node.data = self.plain, data or None
        return node

    def indexed_product(self, context: TensorContext, weights: Any, rows: Any, ids: Any, data: int) -> Any:
        """Return the node rows × weights[ids], its result at an address."""
        arguments = (address_of(weights), address_of(rows), address_of(ids))
        node = computed(self.ggml.ggml_mul_mat_id(context.handle, *arguments))
        node.buffer, node.data = self.plain, data
        return node

    def glu(self, context: TensorContext, gate: Any, up: Any) -> Any:
        """Return the model's GLU node of gate and up, its result in the scratch."""
        node = computed(self.ggml.ggml_glu_split(context.handle, address_of(gate), address_of(up), 0))
        node.op_params[:] = np.frombuffer(self.glu_params, dtype=np.int32).tolist()
        node.buffer, node.data = self.plain, self.scratch.glu
        return node

    def joined_glu(self, context: TensorContext, n_rows: int) -> Any:
        """Return the GLU node of rows (gate | up) that lie one after the other in the scratch."""
        n_ff = self.layout.n_ff
        gate = self.strided(context, n_ff, 2 * n_ff, self.scratch.gate_up)
        up = self.strided(context, n_ff, 2 * n_ff, self.scratch.gate_up + n_ff * FLOAT_BYTES)
        gate.ne[1] = up.ne[1] = n_rows
        return self.glu(context, gate, up)


def slots_tensor(  # noqa: PLR0917 - what a tensor over slots is made of
    context: TensorContext, layout: SlotLayout, buffers: SlotBuffers, index: int, n_slots: int, slot_bytes: int
) -> Any:
    """Return a matrix of all experts in slots that follow each other, `slot_bytes` apart; `data` is the caller's."""
    matrix = layout.matrices[index]
    tensor = context.tensor(matrix.type_id, matrix.n_in, matrix.n_out, n_slots)
    tensor.buffer, tensor.extra = buffers.of(matrix), buffers.extras[index] or None
    tensor.nb[2], tensor.nb[3] = slot_bytes, slot_bytes * n_slots
    return tensor


def computed(address: int | None) -> Any:
    """Return a node's view, marked to be computed: ggml skips nodes that are not."""
    node = at(address)
    node.flags |= abi.GGML_TENSOR_FLAG_COMPUTE
    return node


def set_nodes(context: TensorContext, graph: Any, nodes: list[Any]) -> None:
    """Make these the nodes of a graph."""
    first = context.index_of(int(graph.nodes))
    for i, node in enumerate(nodes):
        context.words[first + i] = address_of(node)
    graph.n_nodes = len(nodes)
