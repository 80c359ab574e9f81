"""Runs experts on one device while the CPU does something else: queue everything, come back, wait, take the rows.

    start    x and slots in, compute, rows out: all queued on the device, no Python until `finish`
    finish   wait; put each pair's row where it belongs

One run at a time. More pairs than a graph takes go through it in chunks, still all queued at once; more than the host
memory for rows takes (`max_pairs`) follow in `finish`, in further rounds. Knows nothing of how experts are chosen.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
import numpy.typing as npt

from qwenctl.errors import GenerationFailed
from qwenctl.moe.device_graphs import ExpertGraph, Workspace, workspace_bytes
from qwenctl.moe.device_pools import DevicePool
from qwenctl.moe.devices import Device, DeviceCalls
from qwenctl.moe.ggml_calls import rows_at
from qwenctl.moe.host_memory import HostMemory

_FLOAT_BYTES = 4
LARGEST_CHUNK = 512
_LARGEST_ROUND = 4096
_MOST_GRAPHS = 2048  # about 10 KiB each


@dataclass(slots=True)
class Run:
    """What one `start` began. For `finish` of the same executor, and for traces.

    Attributes:
        started_s, queued_s, waited_from_s, ended_s, finished_s: perf_counter when start was entered and left, when
            finish began to wait, when the wait was over, and when finish was left; 0.0 until then.
        n_pairs: pairs in all.
        order: in which they are computed, an expert's pairs one after the other; None: as given.
    """

    pool: DevicePool
    slots: Sequence[int]
    tokens: Sequence[int] | None
    x_address: int
    glu_params: bytes
    n_pairs: int
    order: npt.NDArray[np.int64] | None = None
    n_queued: int = 0
    started_s: float = field(default_factory=perf_counter)
    queued_s: float = 0.0
    waited_from_s: float = 0.0
    ended_s: float = 0.0
    finished_s: float = 0.0


class DeviceExecutor:
    """One device, ready to compute experts.

    Args:
        calls: the library.
        device: which one.
        widths: the largest (n_embd, n_ff) of the layers it will compute.
        chunk_pairs: most pairs in one graph.
        max_pairs: most pairs queued at once: host memory for their rows is taken as they come.

    Raises:
        MemoryError: the device gives no memory to work in, or cannot be opened.
    """

    def __init__(
        self,
        calls: DeviceCalls,
        device: Device,
        widths: tuple[int, int],
        *,
        chunk_pairs: int = LARGEST_CHUNK,
        max_pairs: int = _LARGEST_ROUND,
    ) -> None:
        self._calls, self.device = calls, device
        self.chunk_pairs, self.max_pairs = chunk_pairs, max_pairs
        self._row_bytes = widths[0] * _FLOAT_BYTES
        self._n_embd = widths[0]
        self._backend: int = calls.ggml_backend_dev_init(device.handle, None) or 0
        if not self._backend:
            raise MemoryError(f"{device.label} cannot be opened")
        self._graphs: dict[tuple[int, int, bool, bytes], ExpertGraph] = {}
        self._rows = _HostRows(calls, device, self._n_embd)
        self._current: Run | None = None
        try:
            self._workspace = Workspace(calls, device, workspace_bytes(widths, chunk_pairs))
        except MemoryError:
            calls.ggml_backend_free(self._backend)
            raise

    @property
    def backend(self) -> int:
        """The ggml_backend_t: one queue."""
        return self._backend

    @property
    def device_bytes(self) -> int:
        """Device memory taken besides the slots."""
        return self._workspace.n_bytes

    def start(
        self, pool: DevicePool, slots: Sequence[int], tokens: Sequence[int] | None, x_address: int, glu_params: bytes
    ) -> Run:
        """Queue experts of one layer. What lies at `x_address` must not change before `finish`.

        Args:
            pool: the layer's slots.
            slots: of each pair; not empty.
            tokens: the row of x of each pair; None: row 0 for all of them (a decode step of one sequence).
            x_address: of x, float32 (n_tokens, n_embd), contiguous.
            glu_params: op_params of the layer's GLU node, 64 bytes.

        Raises:
            GenerationFailed: the device reported that it could not compute.
            ValueError: it computes already.
        """
        if self._current is not None:
            raise ValueError(f"{self.device.label} computes already")
        run = Run(pool, slots, tokens, x_address, glu_params, len(slots))
        if tokens is None and run.n_pairs <= self.chunk_pairs:
            self._queue_shared(run)
        else:
            run.order = np.argsort(np.asarray(slots), kind="stable")
            self._queue_round(run, run.order)
        self._current = run
        run.queued_s = perf_counter()
        return run

    def queue_write(self, tensor_address: int, address: int, offset: int, n_bytes: int) -> None:
        """Queue a copy into a tensor of a pool before the next run; the bytes must not change before its `finish`."""
        self._calls.ggml_backend_tensor_set_async(self._backend, tensor_address, address, offset, n_bytes)

    def finish(self, run: Run, out_address: int, rows: Sequence[int]) -> None:
        """Wait for a run and put its results where they belong.

        Args:
            run: what `start` returned.
            out_address: of the output, float32 (n_rows, n_embd), contiguous.
            rows: the row of each pair.

        Raises:
            GenerationFailed: the device reported that it could not compute.
        """
        if run is not self._current:
            raise ValueError(f"not the run that {self.device.label} computes")
        run.waited_from_s = perf_counter()
        self._calls.ggml_backend_synchronize(self._backend)
        run.ended_s = perf_counter()
        if run.order is None:
            self._rows.copy_out(out_address, rows)
        else:
            self._finish_rounds(run, run.order, out_address, np.asarray(rows))
        self._current = None
        run.finished_s = perf_counter()

    def abandon(self) -> None:
        """Wait for whatever is under way and forget it: after an error between `start` and `finish`."""
        self._calls.ggml_backend_synchronize(self._backend)
        self._current = None

    def forget_graphs(self) -> None:
        """Free the graphs: before their pools are closed."""
        for graph in self._graphs.values():
            graph.free()
        self._graphs.clear()

    def close(self) -> None:
        """Wait, then free everything but the pools."""
        if self._backend:
            self.abandon()
            self.forget_graphs()
            self._workspace.close()
            self._rows.close()
            self._calls.ggml_backend_free(self._backend)
            self._backend = 0

    def _queue_shared(self, run: Run) -> None:
        graph = self._graph(run, run.n_pairs, True)
        graph.slots[:] = run.slots  # type: ignore[call-overload]
        self._rows.reserve(run.n_pairs)
        self._queue(graph, run.x_address, self._rows.out_address)
        run.n_queued = run.n_pairs

    def _queue_round(self, run: Run, order: npt.NDArray[np.int64]) -> None:
        """Queue the next pairs, as many as there may be rows for in host memory."""
        first = run.n_queued
        picked = order[first : first + self.max_pairs]
        slots = np.asarray(run.slots)[picked].astype(np.int32)
        tokens = np.asarray(run.tokens)[picked] if run.tokens is not None else np.zeros_like(picked)
        self._rows.reserve(len(picked))
        self._rows.gather(run.x_address, tokens)
        for start, end in _chunks(slots, self.chunk_pairs):
            chunk = slots[start:end]
            graph = self._graph(run, len(chunk), False)
            graph.slots_address = self._rows.keep_ids(start, chunk)
            offset = start * self._row_bytes
            self._queue(graph, self._rows.x_address + offset, self._rows.out_address + offset)
        run.n_queued = first + len(picked)

    def _finish_rounds(
        self, run: Run, order: npt.NDArray[np.int64], out_address: int, rows: npt.NDArray[np.int64]
    ) -> None:
        done = 0
        while True:
            self._rows.scatter(out_address, rows[order[done : run.n_queued]])
            done = run.n_queued
            if done == run.n_pairs:
                return
            self._queue_round(run, order)
            self._calls.ggml_backend_synchronize(self._backend)

    def _queue(self, graph: ExpertGraph, x_address: int, out_address: int) -> None:
        calls, backend = self._calls, self._backend
        calls.ggml_backend_tensor_set_async(backend, graph.x, x_address, 0, graph.x_bytes)
        calls.ggml_backend_tensor_set_async(backend, graph.ids, graph.slots_address, 0, graph.ids_bytes)
        status = calls.ggml_backend_graph_compute_async(backend, graph.address)
        if status != 0:
            self.abandon()
            raise GenerationFailed(f"{self.device.label} could not compute experts (ggml status {status})")
        calls.ggml_backend_tensor_get_async(backend, graph.out, out_address, 0, graph.out_bytes)

    def _graph(self, run: Run, n_pairs: int, shared_x: bool) -> ExpertGraph:
        key = (id(run.pool), n_pairs, shared_x, run.glu_params)
        graph = self._graphs.get(key)
        if graph is None:
            if len(self._graphs) >= _MOST_GRAPHS:
                self._calls.ggml_backend_synchronize(self._backend)
                self.forget_graphs()
            graph = ExpertGraph(self._calls, run.pool, self._workspace, n_pairs, shared_x, run.glu_params)
            self._graphs[key] = graph
        return graph


class _HostRows:
    """Rows on their way to a device and back, in memory that the device copies by itself where it has such."""

    def __init__(self, calls: DeviceCalls, device: Device, n_embd: int) -> None:
        self._calls, self._device, self._n_embd = calls, device, n_embd
        self._memory: HostMemory | None = None
        self._ids: npt.NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self.n_rows = self.x_address = self.out_address = 0

    def reserve(self, n_rows: int) -> None:
        """Have room for that many rows in each direction; only while nothing is under way."""
        if n_rows <= self.n_rows:
            return
        self.close()
        n_rows = 1 << (n_rows - 1).bit_length()
        n_bytes = n_rows * self._n_embd * _FLOAT_BYTES
        self._memory = HostMemory(self._calls, self._device, 2 * n_bytes)
        self.x_address = self._memory.address
        self.out_address = self.x_address + n_bytes
        self._ids = np.zeros(n_rows, dtype=np.int32)
        self.n_rows = n_rows

    def gather(self, x_address: int, tokens: npt.NDArray[np.int64]) -> None:
        """Copy the rows of x that pairs want, one after the other."""
        x = rows_at(x_address, int(tokens.max()) + 1, self._n_embd)
        np.take(x, tokens, axis=0, out=rows_at(self.x_address, len(tokens), self._n_embd), mode="clip")

    def copy_out(self, out_address: int, rows: Sequence[int]) -> None:
        """Copy results to rows of the output, one by one: quickest for a few."""
        row_bytes, source = self._n_embd * _FLOAT_BYTES, self.out_address
        for row in rows:
            ctypes.memmove(out_address + row * row_bytes, source, row_bytes)
            source += row_bytes

    def scatter(self, out_address: int, rows: npt.NDArray[np.int64]) -> None:
        """Copy results to rows of the output."""
        out = rows_at(out_address, int(rows.max()) + 1, self._n_embd)
        out[rows] = rows_at(self.out_address, len(rows), self._n_embd)

    def keep_ids(self, start: int, slots: npt.NDArray[np.int32]) -> int:
        """Hold a chunk's slots until the run ends; returns their address."""
        self._ids[start : start + len(slots)] = slots
        return int(self._ids.ctypes.data) + start * self._ids.itemsize

    def close(self) -> None:
        """Free the memory."""
        if self._memory is not None:
            self._memory.close()
        self._memory, self.n_rows = None, 0


def _chunks(slots: npt.NDArray[np.int32], most: int) -> Iterator[tuple[int, int]]:
    """Cut sorted slots into pieces of at most `most`, between two slots where that can be.

    Kernels differ by how many rows a matrix has in a graph, and so do their roundings.
    """
    borders = np.append(np.flatnonzero(np.diff(slots)) + 1, len(slots))
    start = 0
    while start < len(slots):
        fitting = borders[(borders > start) & (borders <= start + most)]
        end = int(fitting[-1]) if len(fitting) else start + most
        yield start, end
        start = end
