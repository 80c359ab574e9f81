"""Graphs that compute experts of one layer out of a device's slots; built once, run again with other inputs.

    one token      x [n_embd, 1, 1], ids [k, 1]   every pair has the same row of x: a decode step
    pairs          x [n_embd, 1, P], ids [1, P]   each pair has its own row

    x → MUL_MAT_ID gate, MUL_MAT_ID up | MUL_MAT_ID gate_up → GLU → MUL_MAT_ID down → rows [n_embd, pairs]

All of a device's graphs share one buffer for inputs and results, since only one is under way at a time; within a graph
no two tensors overlap. Knows nothing of which slots are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import addressof, c_int32
from typing import Any

import numpy as np

from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.device_pools import DevicePool
from qwenctl.moe.devices import Device, DeviceCalls
from qwenctl.moe.ggml_calls import TensorContext, address_of, at

_F32, _I32 = abi.GGML_TYPE["F32"], abi.GGML_TYPE["I32"]
_FLOAT_BYTES = 4
_GLU_PARAMS_BYTES = abi.GGML_MAX_OP_PARAMS


class Workspace:
    """A device's buffer for inputs and results of the graphs.

    Args:
        calls: the library.
        device: whose.
        n_bytes: as `workspace_bytes` says.

    Raises:
        MemoryError: the device does not give it.
    """

    def __init__(self, calls: DeviceCalls, device: Device, n_bytes: int) -> None:
        self.buffer_type: int = calls.ggml_backend_dev_buffer_type(device.handle)
        self.alignment: int = calls.ggml_backend_buft_get_alignment(self.buffer_type)
        self._calls, self.n_bytes = calls, n_bytes
        self.buffer: int = calls.ggml_backend_buft_alloc_buffer(self.buffer_type, n_bytes) or 0
        if not self.buffer:
            raise MemoryError(f"{device.label} gives no {n_bytes} bytes")
        self.base: int = calls.ggml_backend_buffer_get_base(self.buffer)

    def close(self) -> None:
        """Free it."""
        buffer, self.buffer = self.buffer, 0
        if buffer:
            self._calls.ggml_backend_buffer_free(buffer)


class ExpertNodes:
    """Nodes that compute experts, each placed in a device's buffer one after the other: graphs are made of them.

    Args:
        calls: the library.
        space: where inputs and results lie.
        begin_bytes: where in it the first one may lie.
        n_tensors, n_nodes: most of them.

    Raises (all that places):
        MemoryError: the space is too small.
    """

    def __init__(
        self, calls: DeviceCalls, space: Workspace, begin_bytes: int = 0, n_tensors: int = 16, n_nodes: int = 16
    ) -> None:
        self.calls, self._space = calls, space
        self.context = TensorContext(calls.ggml, n_tensors, (n_nodes,))
        self._n_nodes, self._used_bytes = n_nodes, begin_bytes

    def placed(self, tensor: Any) -> Any:
        """Give a tensor its place."""
        calls, space = self.calls, self._space
        size = calls.ggml_backend_buft_get_alloc_size(space.buffer_type, address_of(tensor))
        end = self._used_bytes + -(-size // space.alignment) * space.alignment
        if end > space.n_bytes:
            raise MemoryError(f"a graph of experts takes more than {space.n_bytes} bytes")
        calls.ggml_backend_tensor_alloc(space.buffer, address_of(tensor), space.base + self._used_bytes)
        self._used_bytes = end
        return tensor

    def view(self, tensor: Any, shape: tuple[int, int, int], row_bytes: int, offset: int = 0) -> Any:
        """Return a view of f32 rows, `row_bytes` apart in the last dimension but one."""
        plane = row_bytes * shape[1]
        made = self.calls.ggml_view_3d(self.context.handle, address_of(tensor), *shape, row_bytes, plane, offset)
        self.calls.ggml_backend_view_init(made)
        return at(made)

    def experts(self, weights: Sequence[Any], x: Any, ids: Any, glu_params: bytes) -> Any:
        """Return the results of experts.

        Args:
            weights: the tensors of a layer's slots, `down` last.
            x: [n_embd, 1, n].
            ids: i32 [k, n], slots.
            glu_params: op_params of the model's own GLU node, 64 bytes.
        """
        hidden = self._glu([self._product(one, x, ids) for one in weights[:-1]], glu_params)
        return self._product(weights[-1], hidden, ids)

    def graph_of(self, last: Any) -> int:
        """Return the address of the graph that ends in a node."""
        graph = self.context.graph(self._n_nodes)
        self.calls.ggml_build_forward_expand(address_of(graph), address_of(last))
        return address_of(graph)

    def _product(self, weights: Any, x: Any, ids: Any) -> Any:
        parts = (address_of(one) for one in (weights, x, ids))
        return self.placed(at(self.calls.ggml.ggml_mul_mat_id(self.context.handle, *parts)))

    def _glu(self, products: list[Any], glu_params: bytes) -> Any:
        """GLU of (gate, up), or of the two halves of gate_up's rows, as llama.cpp cuts them."""
        gate, up = products if len(products) == 2 else self._halves(products[0])
        node = at(self.calls.ggml.ggml_glu_split(self.context.handle, address_of(gate), address_of(up), 0))
        node.op_params[:] = np.frombuffer(glu_params[:_GLU_PARAMS_BYTES], dtype=np.int32).tolist()
        return self.placed(node)

    def _halves(self, gate_up: Any) -> list[Any]:
        n_ff, n1, n2 = int(gate_up.ne[0]) // 2, int(gate_up.ne[1]), int(gate_up.ne[2])
        row_bytes = int(gate_up.nb[1])
        return [self.view(gate_up, (n_ff, n1, n2), row_bytes, offset) for offset in (0, n_ff * _FLOAT_BYTES)]


class ExpertGraph:
    """One graph with places for its inputs.

    Attributes:
        address: of the graph.
        x, ids, out: addresses of the tensors that are written before and read after it.
        slots: the routed slots in host memory, to be sent to `ids`; `slots_address` is where it lies.
        n_pairs, x_bytes, ids_bytes, out_bytes: sizes.

    Args:
        calls: the library.
        pool: the layer's slots.
        workspace: of the device.
        n_pairs: pairs of (row of x, slot).
        shared_x: whether they all have the same row of x.
        glu_params: op_params of the model's own GLU node, 64 bytes.

    Raises:
        MemoryError: the workspace is too small.
    """

    def __init__(  # noqa: PLR0917 - what a graph is made of
        self,
        calls: DeviceCalls,
        pool: DevicePool,
        workspace: Workspace,
        n_pairs: int,
        shared_x: bool,
        glu_params: bytes,
    ) -> None:
        self._nodes = nodes = ExpertNodes(calls, workspace)
        n_x, self.n_pairs = 1 if shared_x else n_pairs, n_pairs
        n_embd = pool.layer.tensors[0].n_in
        x = nodes.placed(nodes.context.tensor(_F32, n_embd, 1, n_x))
        ids = nodes.placed(nodes.context.tensor(_I32, n_pairs if shared_x else 1, n_x))
        out = nodes.experts(pool.tensors, x, ids, glu_params)
        self.address = nodes.graph_of(out)
        self.x, self.ids, self.out = address_of(x), address_of(ids), address_of(out)
        self.slots = (c_int32 * n_pairs)()
        self.slots_address = addressof(self.slots)
        self.x_bytes, self.ids_bytes = n_embd * n_x * _FLOAT_BYTES, n_pairs * 4
        self.out_bytes = int(out.ne[0]) * n_pairs * _FLOAT_BYTES

    def free(self) -> None:
        """Free the graph; not while it runs."""
        self._nodes.context.free()


def workspace_bytes(widths: tuple[int, int], n_pairs: int, slack_bytes: int = 1 << 20) -> int:
    """Return what graphs of up to `n_pairs` take in a device's workspace.

    Args:
        widths: (n_embd, n_ff) of the experts.
        n_pairs: at most that many pairs in a graph.
        slack_bytes: alignment, and what some devices want beyond a tensor's own size.
    """
    n_embd, n_ff = widths
    return n_pairs * (2 * n_embd + 3 * n_ff + 1) * _FLOAT_BYTES + slack_bytes
