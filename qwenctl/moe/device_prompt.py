"""A prompt's micro-batch through one layer on one device: the experts that lie there, and others that pass through.

    x ─► device, once ─► chunks of pairs, an expert's together ─► all results ─► main memory, once
         experts in RAM ─► room for MOST_PASSING of them ─┘ a group after the other

    a chunk    x → GET_ROWS → experts (device_graphs.py) → SET_ROWS → results [n_embd, tokens × used]

All is queued on the device's one queue, so that no expert arrives before the last use of the one whose room it takes.
Bringing an expert over takes what a CPU takes to compute it for a few tokens; a prompt has many. Knows nothing of how
experts are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from qwenctl.errors import GenerationFailed
from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.device_graphs import ExpertNodes, Workspace
from qwenctl.moe.device_pools import DevicePool
from qwenctl.moe.devices import Device, DeviceCalls
from qwenctl.moe.expert_map import ExpertTensor, MoeLayer
from qwenctl.moe.ggml_calls import TensorContext, address_of, at, rows_at
from qwenctl.moe.prompt_chunks import Chunk, chunks_of
from qwenctl.moe.prompt_space import MOST_PASSING, PromptSpace, bucket_of

_F32, _I32 = abi.GGML_TYPE["F32"], abi.GGML_TYPE["I32"]
_INT_BYTES = 4
_MOST_GRAPHS = 2048
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class PromptCall:
    """What a layer is to compute.

    Attributes:
        routed: int32 (pairs,): the expert of each pair of token and place.
        n_used: places of a token.
        passing: experts that come from RAM, with the addresses of their matrices in the file's layout.
        x_address: f32 (n_tokens, n_embd); must not change before `finish`.
        glu_params: op_params of the layer's GLU node.
    """

    routed: Ints
    n_used: int
    passing: Sequence[tuple[int, Sequence[int]]]
    x_address: int
    glu_params: bytes


@dataclass(slots=True)
class _UnderWay:
    """A call that was queued; `kept` are arrays that the device reads."""

    n_pairs: int
    n_computed: int = 0
    kept: list[Ints] = field(default_factory=list)


class PromptExecutor:
    """One device's part of prompts.

    Args:
        calls: the library.
        device: which one.
        backend: the ggml_backend_t whose queue is used; nobody else queues between `start` and `finish`.
        space: what it may take.

    Raises:
        MemoryError: the device does not give it.
    """

    def __init__(self, calls: DeviceCalls, device: Device, backend: int, space: PromptSpace) -> None:
        self._calls, self._device, self._backend, self.space = calls, device, backend, space
        self._workspace = Workspace(calls, device, space.n_bytes)
        self._context = TensorContext(calls.ggml, 2)
        self._x = self._placed(self._context.tensor(_F32, space.n_embd, space.n_tokens), 0)
        n_results = space.n_tokens * space.n_used
        self._results = self._placed(self._context.tensor(_F32, space.n_embd, n_results), space.results_at)
        self._passing: dict[tuple[tuple[int, int, int], ...], _Passing] = {}
        self._graphs: dict[tuple[int, tuple[int, int], bytes], _ChunkGraph] = {}
        self._current: _UnderWay | None = None

    def start(self, layer: MoeLayer, pool: DevicePool, call: PromptCall) -> None:
        """Queue everything and return.

        Args:
            layer: what the file says.
            pool: its slots; the pairs of all experts published there are computed, and those of `call.passing`.
            call: the rest.

        Raises:
            GenerationFailed: the device reports that it cannot compute.
        """
        order = np.argsort(call.routed, kind="stable").astype(np.int32)
        counts = np.bincount(call.routed, minlength=layer.n_experts)
        starts = np.cumsum(counts) - counts
        n_tokens = len(call.routed) // call.n_used
        run = self._current = _UnderWay(len(call.routed))
        calls, backend = self._calls, self._backend
        calls.ggml_backend_tensor_set_async(
            backend, address_of(self._x), call.x_address, 0, n_tokens * self.space.row_bytes
        )

        def pairs_of(expert: int) -> Ints:
            return order[starts[expert] : starts[expert] + counts[expert]]

        here = [(slot, pairs_of(e)) for e, slot in enumerate(pool.slot_of) if slot >= 0 and counts[e]]
        self._queue_pairs(pool.tensors, here, call, run)
        for first in range(0, len(call.passing), MOST_PASSING):
            group = call.passing[first : first + MOST_PASSING]
            passing = self._passing_of(layer)
            for slot, (_, addresses) in enumerate(group):
                passing.queue_copy(backend, slot, addresses)
            slots = [(slot, pairs_of(expert)) for slot, (expert, _) in enumerate(group)]
            self._queue_pairs(passing.tensors, slots, call, run)

    def finish(self, out_address: int, others: npt.NDArray[np.intp] | None = None) -> int:
        """Wait, and write the rows of the pairs that were computed into `out`, f32 (pairs, n_embd).

        Args:
            out_address: of the output.
            others: its rows that stay as they are; None: there are none.

        Returns:
            The number of pairs.
        """
        run, self._current = self._current, None
        if run is None:
            raise ValueError(f"{self._device.label} computes no prompt")
        out = rows_at(out_address, run.n_pairs, self.space.n_embd)
        kept = None if others is None else out[others]  # a copy: all rows come back at once, those are not among them
        get = self._calls.ggml_backend_tensor_get_async
        get(self._backend, address_of(self._results), out_address, 0, run.n_pairs * self.space.row_bytes)
        self._calls.ggml_backend_synchronize(self._backend)
        if others is not None:
            out[others] = kept
        return run.n_computed

    def abandon(self) -> None:
        """Forget what is under way; the queue must be empty."""
        self._current = None

    def close(self) -> None:
        """Free everything; the queue must be empty."""
        self._forget_graphs()
        for passing in self._passing.values():
            passing.free()
        self._passing.clear()
        self._context.free()
        self._workspace.close()

    def _queue_pairs(
        self, weights: Sequence[Any], slots: Sequence[tuple[int, Ints]], call: PromptCall, run: _UnderWay
    ) -> None:
        """Queue the pairs of some slots, in chunks."""
        for chunk in chunks_of(slots):
            self._queue_chunk(weights, chunk, call, run)

    def _queue_chunk(self, weights: Sequence[Any], chunk: Chunk, call: PromptCall, run: _UnderWay) -> None:
        n_slots, n_rows = len(chunk.slots), bucket_of(max(len(one) for one in chunk.pairs))
        words = np.empty((3, n_rows, n_slots), dtype=np.int32)  # token, slot and pair
        words[1] = chunk.slots
        for column, pairs in enumerate(chunk.pairs):
            words[2, : len(pairs), column] = pairs
            words[2, len(pairs) :, column] = pairs[-1]  # computed again, to the same place
            run.n_computed += len(pairs)
        np.floor_divide(words[2], np.int32(call.n_used), out=words[0])
        graph = self._graph(weights, (n_slots, n_rows), call.glu_params)
        run.kept.append(words)
        calls = self._calls
        calls.ggml_backend_tensor_set_async(self._backend, graph.words, words.ctypes.data, 0, words.nbytes)
        status = calls.ggml_backend_graph_compute_async(self._backend, graph.address)
        if status != 0:
            raise GenerationFailed(f"{self._device.label} could not compute experts (ggml status {status})")

    def _graph(self, weights: Sequence[Any], shape: tuple[int, int], glu_params: bytes) -> _ChunkGraph:
        key = (address_of(weights[0]), shape, glu_params)
        if key not in self._graphs:
            if len(self._graphs) >= _MOST_GRAPHS:
                self._calls.ggml_backend_synchronize(self._backend)
                self._forget_graphs()
            nodes = ExpertNodes(self._calls, self._workspace, self.space.chunk_at, n_tensors=24, n_nodes=24)
            self._graphs[key] = _ChunkGraph(nodes, weights, (self._x, self._results), shape, glu_params)
        return self._graphs[key]

    def _passing_of(self, layer: MoeLayer) -> _Passing:
        key = tuple((one.type.type_id, one.n_in, one.n_out) for one in layer.tensors)
        if key not in self._passing:
            self._passing[key] = _Passing(self._calls, self._workspace, self.space, layer)
        return self._passing[key]

    def _placed(self, tensor: Any, offset: int) -> Any:
        space = self._workspace
        self._calls.ggml_backend_tensor_alloc(space.buffer, address_of(tensor), space.base + offset)
        return tensor

    def _forget_graphs(self) -> None:
        for graph in self._graphs.values():
            graph.free()
        self._graphs.clear()


class _ChunkGraph:
    """Some pairs: their rows of x gathered, computed, and put to their places.

    An expert's pairs are a column: MUL_MAT_ID takes them for tokens that all use the same experts, and makes no more
    tiles for an expert than it has pairs. With one column of all pairs it would make them for each expert.
    """

    def __init__(
        self,
        nodes: ExpertNodes,
        weights: Sequence[Any],
        ends: tuple[Any, Any],
        shape: tuple[int, int],
        glu_params: bytes,
    ) -> None:
        self._nodes, (x, results), (n_slots, n_rows) = nodes, ends, shape
        ggml, handle, n_pairs = nodes.calls.ggml, nodes.context.handle, n_slots * n_rows
        words = nodes.placed(nodes.context.tensor(_I32, n_pairs, 3))
        plane = n_pairs * _INT_BYTES
        tokens, pairs = (nodes.view(words, (n_pairs, 1, 1), plane, at_plane * plane) for at_plane in (0, 2))
        slots = nodes.view(words, (n_slots, n_rows, 1), n_slots * _INT_BYTES, plane)
        n_embd = int(x.ne[0])
        gathered = nodes.placed(at(ggml.ggml_get_rows(handle, address_of(x), address_of(tokens))))
        out = nodes.experts(weights, nodes.view(gathered, (n_embd, n_slots, n_rows), n_embd * 4), slots, glu_params)
        flat = nodes.view(out, (n_embd, n_pairs, 1), n_embd * 4)
        put = at(ggml.ggml_set_rows(handle, address_of(results), address_of(flat), address_of(pairs)))
        nodes.calls.ggml_backend_view_init(address_of(put))
        self.words = address_of(words)
        self.address = nodes.graph_of(put)

    def free(self) -> None:
        """Free the graph; not while it runs."""
        self._nodes.context.free()


class _Passing:
    """Room for MOST_PASSING experts of layers of one kind.

    Gate and up of one type are one matrix of twice the rows, as they lie in RAM: two copies an expert instead of three.
    """

    def __init__(self, calls: DeviceCalls, workspace: Workspace, space: PromptSpace, layer: MoeLayer) -> None:
        self._calls = calls
        self._context = TensorContext(calls.ggml, len(layer.tensors) + 1)
        offset, end = space.passing_at, space.passing_at + space.passing_bytes
        self._parts: list[tuple[int, int, int]] = []  # address of the tensor, its matrix in RAM, bytes
        tensors = []
        for first, infos in enumerate_joined(layer.tensors):
            n_out, n_bytes = sum(one.n_out for one in infos), sum(one.expert_bytes for one in infos)
            tensor = self._context.tensor(infos[0].type.type_id, infos[0].n_in, n_out, MOST_PASSING)
            size = calls.ggml_backend_buft_get_alloc_size(workspace.buffer_type, address_of(tensor))
            if offset + size > end:
                raise MemoryError(f"no room for {MOST_PASSING} experts of layer {layer.index}")
            calls.ggml_backend_tensor_alloc(workspace.buffer, address_of(tensor), workspace.base + offset)
            offset += -(-size // workspace.alignment) * workspace.alignment
            tensors.append(tensor)
            self._parts.append((address_of(tensor), first, n_bytes))
        self.tensors = tuple(tensors)

    def queue_copy(self, backend: int, slot: int, addresses: Sequence[int]) -> None:
        """Queue the copy of an expert's matrices; they must not change before the queue is empty."""
        for tensor, first, n_bytes in self._parts:
            self._calls.ggml_backend_tensor_set_async(backend, tensor, addresses[first], slot * n_bytes, n_bytes)

    def free(self) -> None:
        """Free the headers."""
        self._context.free()


def enumerate_joined(tensors: Sequence[ExpertTensor]) -> list[tuple[int, Sequence[ExpertTensor]]]:
    """Return (index of the first, tensors) of what is one matrix in a slot in RAM: gate and up of one type, or one."""
    if len(tensors) == 3 and (tensors[0].type, tensors[0].n_in) == (tensors[1].type, tensors[1].n_in):
        return [(0, tensors[:2]), (2, tensors[2:])]
    return [(index, tensors[index : index + 1]) for index in range(len(tensors))]
