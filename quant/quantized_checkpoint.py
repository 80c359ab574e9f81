"""AWQ and GPTQ checkpoints as sources: the parts of a packed weight, seen as one weight that is decoded row by row.

    model.layers.0.mlp.up_proj.qweight   ┐
    model.layers.0.mlp.up_proj.qzeros    ├→  model.layers.0.mlp.up_proj.weight, f32 (n_out, n_in)
    model.layers.0.mlp.up_proj.scales    │
    model.layers.0.mlp.up_proj.g_idx     ┘  GPTQ only; the layouts: quant/codecs/int4_layout.py

Rows are outputs, which lie in columns of every part, so `quant.column_read` gets them. They are decoded some at a time,
into the caller's buffer. Shapes are checked when the weight is made; what config.json says has to fit them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.codecs.int4_layout import dequantize_groups, group_index, unpack_awq, unpack_gptq
from quant.errors import CheckpointError, FileFormatError
from quant.quantized_checkpoint_config import PackedFormat
from quant.shown import named
from quant.source_tensor import DecodedTensor, PartReader, SourceTensor
from quant.tensor_info import TensorInfo

_PARTS = ("qweight", "qzeros", "scales", "g_idx")
_SCALE_TYPES = ("F16", "BF16", "F32")
_DECODED_WEIGHTS = 1 << 19  # at a time: their codes are the memory it takes beside the caller's buffer

_Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class PackedWeight(DecodedTensor):
    """A weight (n_out, n_in) in its packed parts.

    Raises:
        CheckpointError: a part whose type or shape does not fit the others or the format.
    """

    module: str  # what the parts are named after: model.layers.0.mlp.up_proj
    packed: PackedFormat
    qweight: TensorInfo
    qzeros: TensorInfo
    scales: TensorInfo
    g_idx: TensorInfo | None = None

    def __post_init__(self) -> None:
        self._expect(self.qweight, ("I32",), self.qweight.shape if len(self.qweight.shape) == 2 else (-1, -1))
        n_out, n_in = self.shape
        group_size = n_in if self.packed.group_size == -1 else self.packed.group_size
        n_groups = -(-n_in // max(1, group_size))
        if n_out % self._in_a_word or (self.packed.method == "awq" and n_in % max(1, group_size)):
            raise CheckpointError(
                f"{self.path.name}: {named(self.name)} of {n_out} x {n_in} cannot be {self.packed.description}"
            )
        self._expect(self.qzeros, ("I32",), (n_groups, n_out // self._in_a_word))
        self._expect(self.scales, _SCALE_TYPES, (n_groups, n_out))
        if self.g_idx is not None:
            self._expect(self.g_idx, ("I32",), (n_in,))

    @property
    def name(self) -> str:
        """As the weight would be named if it were not packed."""
        return f"{self.module}.weight"

    @property
    def dtype(self) -> str:
        """AWQ-4bit and the like."""
        return self.packed.label

    @property
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in)."""
        n_rows, n_columns = self.qweight.shape
        if self.packed.method == "awq":
            return n_columns * self._in_a_word, n_rows
        return n_columns, n_rows * self._in_a_word

    @property
    def parts(self) -> tuple[TensorInfo, ...]:
        """The tensors that hold it."""
        return (self.qweight, self.qzeros, self.scales, *([] if self.g_idx is None else [self.g_idx]))

    def fill_rows(self, reader: PartReader, first_row: int, rows: NDArray[np.float32]) -> None:
        """Decode outputs `first_row` on into `rows`, f32 (n_rows, n_in), contiguous."""
        group_of = self._read_group_of(reader)
        unit = self._in_a_word
        n_together = max(unit, _DECODED_WEIGHTS // self.n_columns // unit * unit)
        first, after_all = first_row, first_row + len(rows)
        while first < after_all:
            after = min(after_all, (first // n_together + 1) * n_together)
            start = first // unit * unit  # whole words
            codes, zeros, scales = self._unpack(reader, start, -(-after // unit) * unit)
            wanted = slice(first - start, after - start)
            target = rows[first - first_row : after - first_row]
            dequantize_groups(codes[wanted], zeros[wanted], scales[wanted], group_of, target)
            first = after

    def _unpack(
        self, reader: PartReader, first: int, after: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.integer[Any]], _Floats]:
        """Return codes, zeros and scales of outputs `first` to `after`, which are whole words."""
        unit, n_out = self._in_a_word, after - first
        qzeros = reader.read_columns(self.qzeros, first // unit, n_out // unit)
        scales = _as_floats(self.scales, reader.read_columns(self.scales, first, n_out))
        if self.packed.method == "awq":
            return unpack_awq(reader.read_columns(self.qweight, first // unit, n_out // unit), qzeros, scales)
        qweight = reader.read_columns(self.qweight, first, n_out)
        return unpack_gptq(
            qweight, qzeros, scales, checkpoint_format=self.packed.checkpoint_format, bits=self.packed.bits
        )

    def _read_group_of(self, reader: PartReader) -> NDArray[np.int32] | None:
        """Return the group of each input, None for groups of equal length in order.

        Raises:
            FileFormatError: g_idx names a group that does not exist.
        """
        n_in, n_groups = self.n_columns, self.scales.shape[0]
        if self.g_idx is None:
            found = group_index(n_in, self.packed.group_size)
        else:
            found = np.empty(n_in, "<i4")
            reader.read_bytes(self.g_idx, 0, found.view(np.uint8))
            if not 0 <= int(found.min()) <= int(found.max()) < n_groups:
                detail = f"tensor {self.g_idx.name} names groups {found.min()} to {found.max()} of {n_groups}"
                raise FileFormatError(self.g_idx.path, detail, "the checkpoint is damaged: download it again")
        equal_length = -(-n_in // n_groups)
        in_order = n_in % n_groups == 0 and np.array_equal(found, group_index(n_in, equal_length))
        return None if in_order else found

    @property
    def _in_a_word(self) -> int:
        return 32 // self.packed.bits

    def _expect(self, part: TensorInfo, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> None:
        if part.dtype not in dtypes or part.shape != shape or not part.n_weights:
            wanted = " x ".join("n" if length < 0 else str(length) for length in shape)
            found = " x ".join(map(str, part.shape))
            raise CheckpointError(
                f"{part.path.name}: tensor {named(part.name)} is {part.dtype} {found} instead of "
                f"{' or '.join(dtypes)} {wanted} ({self.packed.description})",
                "does config.json belong to these weights?",
            )


def decode_packed(tensors: Mapping[str, TensorInfo], packed: PackedFormat) -> dict[str, SourceTensor]:
    """Return the checkpoint's tensors with a weight in place of the parts of each packed one.

    Raises:
        CheckpointError: nothing is packed, or a part is missing, superfluous or does not fit the others.
    """
    modules = dict.fromkeys(_module_of(name) for name in tensors if _is_part(name))
    if not modules:
        raise CheckpointError(f"config.json says that weights are packed ({packed.description}), and none is")
    whole: dict[str, SourceTensor] = {name: info for name, info in tensors.items() if not _is_part(name)}
    for module in modules:
        weight = _packed_weight(module, tensors, packed)
        if weight.name in whole:
            raise CheckpointError(f"{weight.path.name}: {named(weight.name)} is there both packed and as it is")
        whole[weight.name] = weight
    return whole


def _packed_weight(module: str, tensors: Mapping[str, TensorInfo], packed: PackedFormat) -> PackedWeight:
    found = {part: tensors[f"{module}.{part}"] for part in _PARTS if f"{module}.{part}" in tensors}
    wanted = _PARTS if packed.desc_act else _PARTS[:3]
    missing = [part for part in wanted if part not in found]
    if missing or (packed.method == "awq" and "g_idx" in found):
        problem = f"{', '.join(missing)} is missing" if missing else "g_idx is there, which AWQ does not have"
        raise CheckpointError(
            f"{next(iter(found.values())).path.name}: {named(module)} is packed, but its {problem}",
            "is the download complete, and does config.json belong to these weights?",
        )
    return PackedWeight(module, packed, **found)


def _is_part(name: str) -> bool:
    return name.rpartition(".")[2] in _PARTS


def _module_of(name: str) -> str:
    return name.rpartition(".")[0]


def _as_floats(info: TensorInfo, stored: NDArray[Any]) -> _Floats:
    """Return numbers read by `read_columns`; bf16 comes as its bits."""
    return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32) if info.dtype == "BF16" else stored
