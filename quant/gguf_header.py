"""Parse the header of a GGUF file out of bytes: pure, bounded, and every count held against what is left of the file.

The layout is drawn in quant/gguf_format.py. What comes out is well formed; whether the tensors lie where they must is
for quant/gguf_read.py, whether the values make sense to llama.cpp for quant/gguf_check.py.

Bounds follow gguf.cpp of llama.cpp 0c1e57098 and are tighter where a hostile file could cost memory: it lets a string
of 1 GiB and an array of 2^30 elements pass.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.ggml_types import GGML_TYPES_BY_ID, GgmlType
from quant.gguf_cursor import CUT_OFF, Cursor
from quant.gguf_format import (
    ALIGNMENT_KEY,
    DEFAULT_ALIGNMENT,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_TENSOR_NAME_BYTES,
    GgufValueType,
    is_valid_alignment,
)
from quant.shown import shown

MAX_PAIRS = 1 << 16
MAX_TENSORS = 1 << 18
MAX_STRINGS = 1 << 22  # in one array; merges of today's tokenizers stay below 2^19
MAX_KEY_BYTES = (1 << 16) - 1  # docs/gguf.md
_MIN_PAIR_BYTES = 14  # key length, a key of one byte, type, a value of one byte
_MIN_TENSOR_BYTES = 33  # name length, a name of one byte, n_dims, one dimension, type, offset
_MAX_TENSOR_BYTES = (1 << 63) - 1

GgufValue: TypeAlias = int | float | bool | str | NDArray[np.generic] | list[str]
"""A value of the metadata. Strings that are not UTF-8 carry their bytes as surrogates (errors="surrogateescape")."""


@dataclass(frozen=True, slots=True)
class HeaderTensor:
    """One tensor info; `shape` in numpy order, `data_offset` from the start of the data section."""

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    data_offset: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the header says. `value_types` has the type of each value, for arrays that of the elements."""

    version: int
    alignment: int
    metadata: dict[str, GgufValue]
    value_types: dict[str, GgufValueType]
    tensors: tuple[HeaderTensor, ...]
    n_bytes: int  # without the zeros before the data section


def parse_header(path: Path, data: bytes, file_bytes: int) -> GgufHeader:
    """Return the header at the front of `data`.

    Args:
        path: for messages only.
        data: the first bytes of the file.
        file_bytes: size of the whole file.

    Raises:
        GgufError: a rule of the format does not hold.
        NeedMoreBytesError: `data` ends inside the header; try again with more.
    """
    cursor = Cursor(path, data, file_bytes)
    version, n_tensors, n_pairs = _fixed_part(cursor)
    metadata: dict[str, GgufValue] = {}
    value_types: dict[str, GgufValueType] = {}
    for position in range(n_pairs):
        key = _key(cursor, position)
        if key in metadata:
            cursor.refuse(f"the key {shown(key)} appears twice")
        value_types[key], metadata[key] = _value(cursor, key)
    alignment = _alignment(cursor, metadata, value_types)
    tensors = tuple(_tensor(cursor, position) for position in range(n_tensors))
    names = {tensor.name for tensor in tensors}
    if len(names) != n_tensors:
        seen: set[str] = set()
        repeated = next(t.name for t in tensors if t.name in seen or seen.add(t.name))  # type: ignore[func-returns-value]
        cursor.refuse(f"two tensors have the name {shown(repeated)}")
    return GgufHeader(version, alignment, metadata, value_types, tensors, cursor.position)


def _fixed_part(cursor: Cursor) -> tuple[int, int, int]:
    """Return version, number of tensors and number of pairs."""
    magic = cursor.take(min(4, cursor.file_bytes), "magic")
    if magic != MAGIC:
        cursor.refuse(f"not a GGUF file: it begins with {magic!r}, not {MAGIC!r}")
    version = cursor.u32("version")
    if version not in {2, 3}:
        if version & 0xFFFF == 0 and version:
            cursor.refuse("a big-endian GGUF file", "convert it on a little-endian machine")
        cursor.refuse(f"GGUF version {version}; 2 and 3 can be read")
    n_tensors, n_pairs = cursor.u64("tensor count"), cursor.u64("pair count")
    if n_pairs > MAX_PAIRS or n_pairs * _MIN_PAIR_BYTES > cursor.n_left:
        cursor.refuse(f"{n_pairs:,} key-value pairs cannot be in the {cursor.n_left:,} bytes that follow", CUT_OFF)
    if n_tensors > MAX_TENSORS or n_tensors * _MIN_TENSOR_BYTES > cursor.n_left:
        cursor.refuse(f"{n_tensors:,} tensors cannot be in the {cursor.n_left:,} bytes that follow", CUT_OFF)
    return version, n_tensors, n_pairs


def _key(cursor: Cursor, position: int) -> str:
    raw = cursor.string(f"key {position}")
    if not 1 <= len(raw) <= MAX_KEY_BYTES:
        cursor.refuse(f"key {position} has {len(raw):,} bytes; 1 to {MAX_KEY_BYTES:,} are allowed")
    return _plain_text(cursor, raw, f"key {position}")


def _plain_text(cursor: Cursor, raw: bytes, what: str) -> str:
    """Decode a name. A NUL would make llama.cpp, which compares C strings, see another name than we do; line breaks
    and the like would make our messages lie.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        cursor.refuse(f"{what} is not UTF-8: {shown(raw)}")
    if not text.isprintable():
        cursor.refuse(f"{what} holds characters that cannot be printed: {shown(text)}")
    return text


def _value(cursor: Cursor, key: str) -> tuple[GgufValueType, GgufValue]:
    what = f"the value of {shown(key)}"
    value_type = _value_type(cursor, what)
    if value_type is GgufValueType.ARRAY:
        return _array(cursor, what)
    if value_type is GgufValueType.STRING:
        return value_type, cursor.string(what).decode("utf-8", "surrogateescape")
    number: GgufValue = cursor.numbers(value_type, 1, what)[0].item()
    return value_type, number


def _array(cursor: Cursor, what: str) -> tuple[GgufValueType, GgufValue]:
    element_type = _value_type(cursor, what)
    if element_type is GgufValueType.ARRAY:
        cursor.refuse(f"{what} is an array of arrays")
    count = cursor.u64(what)
    if element_type is not GgufValueType.STRING:
        return element_type, cursor.numbers(element_type, count, what)
    if count > MAX_STRINGS or 8 * count > cursor.n_left:
        cursor.refuse(f"{what}: {count:,} strings cannot be in the {cursor.n_left:,} bytes that follow", CUT_OFF)
    return element_type, cursor.strings(count, what)


def _value_type(cursor: Cursor, what: str) -> GgufValueType:
    number = cursor.u32(what)
    try:
        return GgufValueType(number)
    except ValueError:
        cursor.refuse(f"{what} has the unknown type {number}")


def _alignment(cursor: Cursor, metadata: dict[str, GgufValue], value_types: dict[str, GgufValueType]) -> int:
    alignment = metadata.get(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    if value_types.get(ALIGNMENT_KEY, GgufValueType.UINT32) is not GgufValueType.UINT32 or not isinstance(
        alignment, int
    ):
        cursor.refuse(f"{ALIGNMENT_KEY} must be one UINT32")
    if not is_valid_alignment(alignment):
        cursor.refuse(f"{ALIGNMENT_KEY} is {alignment}, not a power of two from 8 to 65536")
    return alignment


def _tensor(cursor: Cursor, position: int) -> HeaderTensor:
    raw_name = cursor.string(f"name of tensor {position}")
    if not 1 <= len(raw_name) <= MAX_TENSOR_NAME_BYTES:
        cursor.refuse(f"the name of tensor {position} has {len(raw_name):,} bytes; 1 to {MAX_TENSOR_NAME_BYTES} fit")
    name = _plain_text(cursor, raw_name, f"the name of tensor {position}")
    what = f"tensor {shown(name)}"
    n_dims = cursor.u32(what)
    if not 1 <= n_dims <= MAX_DIMENSIONS:
        cursor.refuse(f"{what} has {n_dims} dimensions; 1 to {MAX_DIMENSIONS} are allowed")
    shape = struct.unpack(f"<{n_dims}Q", cursor.take(8 * n_dims, what))[::-1]
    type_id, data_offset = cursor.u32(what), cursor.u64(what)
    ggml_type = GGML_TYPES_BY_ID.get(type_id)
    if ggml_type is None:
        cursor.refuse(f"{what} has the unknown type {type_id}", "it needs a newer llama.cpp, or the file is damaged")
    if 0 in shape:
        cursor.refuse(f"{what} is empty: shape {shape}")
    if not ggml_type.divides(shape[-1]):
        cursor.refuse(
            f"{what}: rows of {shape[-1]:,} are not whole {ggml_type.name} blocks of {ggml_type.block_weights}"
        )
    if max(shape) > _MAX_TENSOR_BYTES or prod(shape) > _MAX_TENSOR_BYTES:
        cursor.refuse(f"{what}: shape {shape} has more elements than 63 bits count")
    return HeaderTensor(name, shape, ggml_type, data_offset)
