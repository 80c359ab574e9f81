"""What one expert looks like in a slot: which matrices, where, and in which of ggml's arrangements.

    plain       the file's bytes
    repack      rows interleaved for the CPU's vector instructions (ggml's buffer type "CPU_REPACK")
    amx         tiles for Intel's AMX (ggml's buffer type "AMX"; it only knows MUL_MAT, so one product an expert)

    | gate | up | … pad to a page … | down | … pad … |     gate and up without a gap: one matrix of twice the rows
    | gate_up   | … pad to a page … | down | … pad … |     where the file has them merged

A matrix that ggml cannot rearrange (by its type or shape) stays plain; the layout's name says what was asked for.
Bytes of the rearranged forms come from ggml itself. Knows nothing of files or of what is resident.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qwenctl.moe.expert_map import ExpertTensor, Kind, MoeLayer
from qwenctl.moe.ggml_calls import Ggml, TensorContext, address_of
from qwenctl.moe.slot_memory import PAGE_BYTES

LayoutName = Literal["plain", "repack", "amx"]
BUFFER_TYPE_NAMES: dict[LayoutName, str] = {"repack": "CPU_REPACK", "amx": "AMX"}
_GGML_F32 = 0


@dataclass(frozen=True, slots=True)
class SlotMatrix:
    """One matrix (n_out, n_in) of an expert in its slot.

    `buffer_type` is the address of the ggml buffer type that rearranges it, 0: plain.
    """

    kind: Kind
    type_id: int
    n_in: int
    n_out: int
    file_bytes: int
    offset_bytes: int
    n_bytes: int
    buffer_type: int


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """The matrices of a slot, in the order gate, up, down or gate_up, down. Equal for layers of equal shape."""

    name: LayoutName
    matrices: tuple[SlotMatrix, ...]
    slot_bytes: int

    @property
    def n_embd(self) -> int:
        """Columns of the first matrix: the width of the residual stream."""
        return self.matrices[0].n_in

    @property
    def n_ff(self) -> int:
        """Columns of `down`: the width inside an expert."""
        return self.matrices[-1].n_in

    @property
    def is_plain(self) -> bool:
        """Whether the slot holds the file's bytes throughout."""
        return all(matrix.buffer_type == 0 for matrix in self.matrices)

    @property
    def joins_gate_and_up(self) -> bool:
        """Whether gate and up can be multiplied as one matrix of twice the rows."""
        if len(self.matrices) == 2:
            return True
        gate, up, _ = self.matrices
        same = (gate.type_id, gate.n_in, gate.n_out, gate.buffer_type) == (
            up.type_id,
            up.n_in,
            up.n_out,
            up.buffer_type,
        )
        return same and up.offset_bytes == gate.offset_bytes + gate.n_bytes


class LayoutMaker:
    """Asks ggml which arrangements this build and CPU have. Keep it as long as its layouts are used."""

    def __init__(self, ggml: Ggml) -> None:
        self._ggml = ggml
        self._types = ggml.extra_buffer_types()
        self._probes: dict[int, int] = {}  # buffer type → a small buffer of that type

    def available(self) -> tuple[LayoutName, ...]:
        """Return the layouts that this CPU has, the plain one first."""
        return ("plain", *(name for name, known in BUFFER_TYPE_NAMES.items() if known in self._types))

    def layout(self, layer: MoeLayer, name: LayoutName) -> SlotLayout:
        """Return the slot layout of a layer's experts."""
        wanted = self._types.get(BUFFER_TYPE_NAMES[name], 0) if name != "plain" else 0
        matrices: list[SlotMatrix] = []
        offset = 0
        for tensor in layer.tensors:
            buffer_type, n_bytes = self._arrangement(tensor, wanted)
            if tensor.kind == "down":
                offset = _padded(offset, PAGE_BYTES)
            matrices.append(
                SlotMatrix(
                    tensor.kind,
                    tensor.type.type_id,
                    tensor.n_in,
                    tensor.n_out,
                    tensor.expert_bytes,
                    offset,
                    n_bytes,
                    buffer_type,
                )
            )
            offset = offset + n_bytes
        return SlotLayout(name, tuple(matrices), _padded(offset, PAGE_BYTES))

    def probe_buffer(self, buffer_type: int) -> int:
        """Return a small buffer of an extra buffer type, whose interface serves for buffers over our own memory."""
        if buffer_type not in self._probes:
            made = self._ggml.ggml_backend_buft_alloc_buffer(buffer_type, 4096)
            if not made:
                raise MemoryError("ggml makes no buffer of 4096 bytes")
            self._probes[buffer_type] = made
        return self._probes[buffer_type]

    def _arrangement(self, tensor: ExpertTensor, wanted: int) -> tuple[int, int]:
        """Return (buffer type, bytes): `wanted` if ggml multiplies this matrix in it, else plain."""
        if not wanted:
            return 0, tensor.expert_bytes
        context = TensorContext(self._ggml, 6)
        try:
            # "CPU_REPACK" says yes to products of 3-d tensors by their ids, "AMX" to products of 2-d ones only.
            weights = context.tensor(tensor.type.type_id, tensor.n_in, tensor.n_out, 1)
            weights.buffer = self.probe_buffer(wanted)
            inputs = context.tensor(_GGML_F32, tensor.n_in, 1, 1)
            product = self._ggml.ggml_mul_mat(context.handle, address_of(weights), address_of(inputs))
            if not self._ggml.ggml_backend_dev_supports_op(self._ggml.cpu_device, product):
                return 0, tensor.expert_bytes
            return wanted, int(self._ggml.ggml_backend_buft_get_alloc_size(wanted, address_of(weights)))
        finally:
            context.free()

    def close(self) -> None:
        """Free the small buffers."""
        while self._probes:
            self._ggml.ggml_backend_buffer_free(self._probes.popitem()[1])


def _padded(n_bytes: int, step: int) -> int:
    return -(-n_bytes // step) * step
