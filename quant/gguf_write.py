"""Lay out a GGUF file: from metadata and tensor shapes to the bytes of the header and the place of every tensor.

Pure: no files, no tensor data, and the same arguments give the same bytes. The layout is drawn in quant/gguf_format.py.
Because every offset is known before the first tensor is read, a converter can write tensors in any order and resume.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.ggml_types import GgmlType
from quant.gguf_format import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_TENSOR_NAME_BYTES,
    NUMBER_FORMATS,
    GgufValueType,
    is_valid_alignment,
    padded,
)

__all__ = ("GgufField", "GgufLayout", "GgufTensor", "GgufValueType", "PlacedTensor", "plan_layout")

_VERSION = 3

FieldValue: TypeAlias = (
    "int | float | bool | str | Sequence[int] | Sequence[float] | Sequence[bool] | Sequence[str] | NDArray[np.generic]"
)


@dataclass(frozen=True, slots=True)
class GgufField:
    """One value of the metadata.

    `type` is the type of the value, or of the elements where `value` is an array: a list, a tuple or a numpy array of
    one dimension. So `GgufField(GgufValueType.STRING, ["a", "b"])` is an array of two strings.

    Raises:
        ValueError: the value does not fit the type, or the type is ARRAY.
    """

    type: GgufValueType
    value: FieldValue

    def __post_init__(self) -> None:
        _value_bytes(self)

    @property
    def is_array(self) -> bool:
        """Whether the value is an array of `type`."""
        return isinstance(self.value, (list, tuple, np.ndarray))


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor to be placed; `shape` is in numpy order, outermost first.

    Raises:
        ValueError: a name or a shape that GGUF cannot hold, or rows that are not whole blocks.
    """

    name: str
    shape: tuple[int, ...]
    type: GgmlType

    def __post_init__(self) -> None:
        if not 1 <= len(self.name.encode("utf-8")) <= MAX_TENSOR_NAME_BYTES or not self.name.isprintable():
            raise ValueError(f"tensor name {self.name!r}: GGUF takes 1 to {MAX_TENSOR_NAME_BYTES} bytes, all printable")
        if not 1 <= len(self.shape) <= MAX_DIMENSIONS or min(self.shape) < 1:
            raise ValueError(f"{self.name}: shape {self.shape}: GGUF takes 1 to {MAX_DIMENSIONS} dimensions above 0")
        if not self.type.divides(self.shape[-1]):
            blocks = f"{self.type.name} blocks of {self.type.block_weights}"
            raise ValueError(f"{self.name}: rows of {self.shape[-1]} are not whole {blocks}")

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensor's data."""
        return self.type.tensor_bytes(self.shape)


@dataclass(frozen=True, slots=True)
class PlacedTensor:
    """A tensor and its place; `offset_bytes` counts from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset_bytes: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class GgufLayout:
    """A whole file but for its weights.

    `header` ends where the data section starts. Bytes between tensors, and after the last one up to `total_bytes`, are
    zero.
    """

    header: bytes
    placed: tuple[PlacedTensor, ...]
    total_bytes: int
    alignment: int


def plan_layout(
    metadata: Mapping[str, GgufField], tensors: Sequence[GgufTensor], alignment: int = DEFAULT_ALIGNMENT
) -> GgufLayout:
    """Place `tensors`, in their order, behind `metadata`, in its order.

    Args:
        metadata: the key-value pairs; `general.alignment` is added where it is missing and needed.
        tensors: what to place.
        alignment: multiple of bytes at which the data section and each tensor start; a power of two.

    Raises:
        ValueError: an alignment GGUF cannot hold, one that contradicts the metadata, or a repeated tensor name.
    """
    metadata = _with_alignment(metadata, alignment)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ValueError("two tensors have the same name")
    offsets, data_bytes = [], 0
    for tensor in tensors:
        offsets.append(data_bytes)
        data_bytes += padded(tensor.n_bytes, alignment)
    header = _header(metadata, tensors, offsets, alignment)
    placed = tuple(
        PlacedTensor(tensor.name, tensor.shape, tensor.type, len(header) + offset, tensor.n_bytes)
        for tensor, offset in zip(tensors, offsets, strict=True)
    )
    return GgufLayout(header, placed, len(header) + data_bytes, alignment)


def _with_alignment(metadata: Mapping[str, GgufField], alignment: int) -> Mapping[str, GgufField]:
    if not is_valid_alignment(alignment):
        raise ValueError(f"alignment {alignment} is not a power of two from 8 to 65536")
    stated = metadata.get(ALIGNMENT_KEY)
    if stated is None:
        if alignment == DEFAULT_ALIGNMENT:
            return metadata
        return {**metadata, ALIGNMENT_KEY: GgufField(GgufValueType.UINT32, alignment)}
    if stated.type is not GgufValueType.UINT32 or stated.value != alignment:
        raise ValueError(f"{ALIGNMENT_KEY} must be the UINT32 {alignment}, not {stated.type.name} {stated.value}")
    return metadata


def _header(
    metadata: Mapping[str, GgufField], tensors: Sequence[GgufTensor], offsets: Sequence[int], alignment: int
) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    for key, field in metadata.items():
        if not key or not key.isprintable():
            raise ValueError(f"{key!r} is not a key")
        parts += (_string_bytes(key), _field_bytes(field))
    for tensor, offset in zip(tensors, offsets, strict=True):
        n_dims = len(tensor.shape)
        dims = tensor.shape[::-1]
        parts += (_string_bytes(tensor.name), struct.pack(f"<I{n_dims}QIQ", n_dims, *dims, tensor.type.type_id, offset))
    header = b"".join(parts)
    return header.ljust(padded(len(header), alignment), b"\0")


def _field_bytes(field: GgufField) -> bytes:
    if not field.is_array:
        return struct.pack("<I", field.type) + _value_bytes(field)
    count = len(field.value)  # type: ignore[arg-type]
    return struct.pack("<IIQ", GgufValueType.ARRAY, field.type, count) + _value_bytes(field)


def _value_bytes(field: GgufField) -> bytes:
    """Return the value without its type: one element, or all elements of an array."""
    if field.type is GgufValueType.ARRAY:
        raise ValueError("the type of a field is that of its elements; arrays of arrays are not written")
    values = field.value if field.is_array else (field.value,)
    if field.type is GgufValueType.STRING:
        return b"".join(_string_bytes(value) for value in values)  # type: ignore[union-attr]
    return _number_bytes(field.type, _as_array(values))


def _as_array(values: Any) -> NDArray[np.generic]:
    """Return an array; whole numbers stay whole where numpy by itself makes floats of them: 0 beside 2⁶³."""
    array = np.asarray(values)
    if array.dtype.kind == "f" and array.size and all(isinstance(one, int) for one in values):
        return np.asarray(values, np.uint64 if min(values) >= 0 else object)
    return array


def _string_bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not a string")
    data = text.encode("utf-8", "surrogateescape")  # a lone surrogate from anywhere but the reader is a ValueError
    return struct.pack("<Q", len(data)) + data


def _number_bytes(value_type: GgufValueType, values: NDArray[np.generic]) -> bytes:
    target = np.dtype(NUMBER_FORMATS[value_type])
    if values.ndim != 1:
        raise ValueError(f"an array of {values.ndim} dimensions where one is allowed")
    if values.size == 0:
        return b""
    kinds = {"b": "b", "f": "fiu"}.get(target.kind, "iu")
    if values.dtype.kind not in kinds:
        raise ValueError(f"{values[0]!r} is not a {value_type.name}")
    if target.kind in "iu":
        limits, low, high = np.iinfo(target), int(values.min()), int(values.max())
        if low < limits.min or high > limits.max:
            raise ValueError(f"{low if low < limits.min else high} does not fit {value_type.name}")
    with np.errstate(over="ignore"):
        stored = values.astype(target)
    if target.kind == "f" and not np.array_equal(np.isfinite(stored), np.isfinite(values)):
        raise ValueError(f"a number too large for {value_type.name}")
    return stored.tobytes()
