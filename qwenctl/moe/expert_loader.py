"""Reads experts into slots: from the file straight, or rearranged on the way.

    plain      file ─► slot
    repack     file ─► a reader's staging ─► slot                  in the reader's thread
    amx        the same, or, for one token and what is read ahead for it:
               file ─► raw slot ─► (whoever waits for it) ─► slot

AMX tiles can be made by all computing threads at once, when the hits of a token are computed and nothing is left but to
wait: a reader's thread that makes them before takes a core from ggml in the middle of a product, and the others stand
at its barrier. On two cores tokens with misses were 14 % faster so. In a prompt's batch there is always something to
compute, and the reader's threads do it 15 % faster.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from quant.ggml_types import GGML_TYPES_BY_ID
from qwenctl.errors import ExpertReadFailed
from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.expert_map import ExpertMap
from qwenctl.moe.expert_reader import ExpertReader
from qwenctl.moe.ggml_calls import address_of
from qwenctl.moe.graph_tensors import SlotBuffers
from qwenctl.moe.read_queue import ReadTicket
from qwenctl.moe.slot_layout import SlotLayout, SlotMatrix
from qwenctl.moe.slot_memory import PAGE_BYTES, SlotMemory


class Ticket(Protocol):
    """An expert on its way."""

    @property
    def done(self) -> bool:
        """Whether nothing is read any more."""

    @property
    def error(self) -> ExpertReadFailed | None:
        """What went wrong."""

    def wait(self) -> None:
        """Wait until the expert is in its slot; raises ExpertReadFailed."""

    def cancel(self) -> bool:
        """Give it up; True if nothing was begun."""


class RawSlots:
    """Slots for the file's bytes of experts until they are rearranged; more are made when none is free."""

    def __init__(self, slot_bytes: int) -> None:
        self._slot_bytes = -(-slot_bytes // PAGE_BYTES) * PAGE_BYTES
        self._free: list[int] = []
        self._memories: list[SlotMemory] = []

    def take(self) -> int:
        """Return the address of a free slot."""
        if not self._free:
            self._memories.append(SlotMemory(self._slot_bytes, 4))
            self._memories[-1].prefer_huge_pages(4)
            self._free = [self._memories[-1].slot(i) for i in range(4)]
        return self._free.pop()

    def give_back(self, address: int) -> None:
        """The slot is free again."""
        self._free.append(address)


class RawTicket:
    """An expert that is read as it is and rearranged by the thread that waits for it.

    Args:
        ticket: of the read.
        raw: its raw slot.
        slots: where raw slots come from.
        rearrange: makes the slot of the raw one.
    """

    __slots__ = ("_raw", "_rearrange", "_slots", "_ticket")

    def __init__(self, ticket: ReadTicket, raw: int, slots: RawSlots, rearrange: Callable[[int], None]) -> None:
        self._ticket, self._slots, self._rearrange = ticket, slots, rearrange
        self._raw: int | None = raw

    @property
    def done(self) -> bool:
        """Whether nothing is read any more."""
        return self._ticket.done

    @property
    def error(self) -> ExpertReadFailed | None:
        """What went wrong."""
        return self._ticket.error

    def wait(self) -> None:
        """Wait until the expert is in its slot.

        Raises:
            ExpertReadFailed: it could not be read, or was cancelled.
        """
        try:
            self._ticket.wait()
            if self._raw is not None:
                self._rearrange(self._raw)
        except ExpertReadFailed:
            self._free()
            raise
        self._free()

    def cancel(self) -> bool:
        """Give the expert up and return True if no thread has begun with it."""
        cancelled = self._ticket.cancel()
        if cancelled:
            self._free()
        return cancelled

    def _free(self) -> None:
        raw, self._raw = self._raw, None
        if raw is not None:
            self._slots.give_back(raw)


class ExpertLoader:
    """Reads experts into slots.

    Args:
        experts: where they lie in the files.
        n_threads: reads at the same time.
        n_compute: threads that rearrange what somebody waits for.
    """

    def __init__(
        self,
        experts: ExpertMap,
        n_threads: int,
        n_compute: int = 1,
        *,
        direct: bool | None = None,
        **reader_options: Any,
    ) -> None:
        self._experts = experts
        self._n_compute = n_compute
        self._local = threading.local()
        self._raw = RawSlots(max(_raw_bytes(layer.expert_bytes) for layer in experts.layers))
        self.reader = ExpertReader(
            experts.paths, n_threads=n_threads, direct=direct, on_thread_start=partial(_team, 1), **reader_options
        )

    def load(
        self,
        position: int,
        expert: int,
        layout: SlotLayout,
        buffers: SlotBuffers,
        slot: int,
        *,
        urgent: bool = True,
        by_waiter: bool = False,
    ) -> Ticket:
        """Begin to read an expert into the slot at an address. Called, and its ticket waited for, by one thread.

        Args:
            position: of the layer in the expert map.
            expert: which one.
            layout: of the slot.
            buffers: in which the slot lies.
            slot: its address.
            urgent: whether a step waits for it.
            by_waiter: AMX tiles are made by the thread that waits for the ticket.
        """
        name = f"expert {expert} of layer {self._experts.layers[position].index}"
        pieces = self._experts.slices(position, expert)
        if by_waiter and layout.name == "amx":
            raw, offsets = self._raw.take(), _offsets([piece.n_bytes for piece in pieces])
            whole = [(piece, raw + at) for piece, at in zip(pieces, offsets, strict=True)]
            ticket = self.reader.submit(name, whole, urgent=urgent)
            return RawTicket(ticket, raw, self._raw, partial(self._rearrange_all, layout, buffers, slot, offsets))
        parts: list[tuple[Any, int | Callable[[int], None]]] = []
        for matrix, piece in zip(layout.matrices, pieces, strict=True):
            target = slot + matrix.offset_bytes
            if matrix.buffer_type:
                parts.append((piece, partial(self._rearrange, matrix, buffers.of(matrix), target)))
            else:
                parts.append((piece, target))
        return self.reader.submit(name, parts, urgent=urgent)

    def close(self) -> None:
        """Stop the threads; what is under way fails."""
        self.reader.close()

    def _rearrange_all(self, layout: SlotLayout, buffers: SlotBuffers, slot: int, offsets: list[int], raw: int) -> None:
        if not getattr(self._local, "has_team", False):
            _team(self._n_compute)
            self._local.has_team = True
        for matrix, offset in zip(layout.matrices, offsets, strict=True):
            if matrix.buffer_type:
                self._rearrange(matrix, buffers.of(matrix), slot + matrix.offset_bytes, raw + offset)
            else:
                ctypes.memmove(slot + matrix.offset_bytes, raw + offset, matrix.file_bytes)

    def _rearrange(self, matrix: SlotMatrix, buffer: int, target: int, staged: int) -> None:
        """Copy a matrix of the file's layout at `staged` into its slot in the layout of its buffer type."""
        headers = self._local.__dict__.setdefault("headers", {})
        key = (matrix.type_id, matrix.n_in, matrix.n_out, matrix.buffer_type)
        if key not in headers:
            headers[key] = _tensor_header(matrix)
        tensor = headers[key]
        tensor.buffer, tensor.data = buffer, target
        interface = abi.ggml_backend_buffer.from_address(buffer).iface
        if not tensor.extra:
            interface.init_tensor(buffer, address_of(tensor))
        interface.set_tensor(buffer, address_of(tensor), staged, 0, matrix.file_bytes)


def _offsets(sizes: list[int]) -> list[int]:
    """Where matrices of these sizes lie in a raw slot: each at a page, so that they are read without a copy."""
    offsets, at = [], 0
    for n_bytes in sizes:
        offsets.append(at)
        at += -(-n_bytes // PAGE_BYTES) * PAGE_BYTES
    return offsets


def _raw_bytes(expert_bytes: int) -> int:
    """The most that a raw slot needs for an expert of three matrices."""
    return expert_bytes + 3 * PAGE_BYTES


def _tensor_header(matrix: SlotMatrix) -> Any:
    """Return a free-standing header for one matrix."""
    tensor = abi.ggml_tensor()
    tensor.type = matrix.type_id
    row_bytes = matrix.file_bytes // matrix.n_out
    tensor.ne[:] = [matrix.n_in, matrix.n_out, 1, 1]
    tensor.nb[:] = [GGML_TYPES_BY_ID[matrix.type_id].block_bytes, row_bytes, matrix.file_bytes, matrix.file_bytes]
    return tensor


def _team(n_threads: int) -> None:
    """Set how many threads ggml's AMX rearranging, which starts an OpenMP team, uses when this thread calls it."""
    for name in ("libgomp.so.1", "libomp.so.5", "libomp.dylib"):
        try:
            ctypes.CDLL(name).omp_set_num_threads(n_threads)
        except (OSError, AttributeError):
            continue
        return
