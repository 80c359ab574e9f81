"""Read the header of a safetensors file: parse, validate, then view. Tensor data is never touched here.

    offset 0     u64 little-endian    N, length of the header
           8     N bytes              JSON object, padded with spaces: {"name": {"dtype", "shape", "data_offsets"}, …,
                                      "__metadata__": {"string": "string"}}
         8+N     the data             each tensor at its data_offsets [begin, end), counted from here; packed without a
                                      hole or an overlap, to the last byte of the file

An object of `SafetensorsFile` exists only for a file in which all of that holds, so that code behind it can trust
shapes and offsets. Rules: README.md and safetensors/src/tensor.rs of huggingface/safetensors; stricter in one point:
the README disallows duplicate keys, and here they are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from quant.errors import SafetensorsError
from quant.json_file import parse_json_object
from quant.shown import shown
from quant.source_files import DISK, SourceFiles
from quant.tensor_info import TensorInfo

MAX_HEADER_BYTES = 100_000_000
MAX_DIMENSIONS = 16  # a bound of ours: keeps the product of a hostile shape a small number
_MAX_COUNT = (1 << 63) - 1
_METADATA_KEY = "__metadata__"
_CUT_OFF = "download it again: it was cut off"

DTYPE_BITS: dict[str, int] = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "C64": 64,
    "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Bits of an element, for every dtype of the format."""


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A validated file. Tensors are in the order of their data; offsets count from the start of the file."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    size_bytes: int


def read_safetensors(path: Path, files: SourceFiles = DISK) -> SafetensorsFile:
    """Return what the file holds, without reading tensor data.

    Args:
        path: names the file.
        files: where it is.

    Raises:
        SafetensorsError: missing, unreadable, or a header in which any rule of the format does not hold.
    """
    try:
        size_bytes = files.size_bytes(path)
        header = _read_header(path, size_bytes, files)
    except OSError as error:
        raise SafetensorsError(path, error.strerror or str(error)) from error
    return _validated(path, header, size_bytes)


def _read_header(path: Path, size_bytes: int, files: SourceFiles) -> bytes:
    prefix = files.read(path, 0, 8)
    if len(prefix) < 8:
        raise SafetensorsError(path, f"{len(prefix)} bytes long, the shortest safetensors file has 10")
    (header_bytes,) = struct.unpack("<Q", prefix)
    if header_bytes > MAX_HEADER_BYTES:
        raise SafetensorsError(path, f"header of {header_bytes:,} bytes, at most {MAX_HEADER_BYTES:,} are allowed")
    if header_bytes > size_bytes - 8:
        raise SafetensorsError(path, f"header of {header_bytes:,} bytes in a file of {size_bytes:,}", _CUT_OFF)
    header = files.read(path, 8, header_bytes)
    if len(header) != header_bytes:
        raise SafetensorsError(path, f"header cut off after {len(header):,} of {header_bytes:,} bytes")
    return header


def _validated(path: Path, header: bytes, size_bytes: int) -> SafetensorsFile:
    if not header.startswith(b"{"):
        raise SafetensorsError(path, f"header begins with {header[:1]!r}, not with '{{'")
    try:
        entries = parse_json_object(header)
    except ValueError as error:
        raise SafetensorsError(path, f"header: {error}") from error
    metadata = _metadata(path, entries.pop(_METADATA_KEY, {}))
    data_start = 8 + len(header)
    tensors = [_tensor(path, name, entry, data_start) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.offset_bytes, tensor.n_bytes))
    _check_packing(path, tensors, data_start, size_bytes)
    return SafetensorsFile(path, {tensor.name: tensor for tensor in tensors}, metadata, size_bytes)


def _metadata(path: Path, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise SafetensorsError(path, f"{_METADATA_KEY} must map strings to strings")
    return value


def _tensor(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    """Return the view of one header entry, its span held against its shape."""

    def refuse(detail: str) -> NoReturn:
        raise SafetensorsError(path, f"tensor {shown(name)}: {detail}")

    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        refuse("its entry must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        refuse(f"unknown dtype {shown(dtype)}")
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        refuse(f"shape must be a list of at most {MAX_DIMENSIONS} whole numbers from 0")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        refuse("data_offsets must be two ascending whole numbers from 0")
    bits = prod(shape) * DTYPE_BITS[dtype]
    n_bytes = offsets[1] - offsets[0]
    if bits % 8:
        refuse(f"shape {shape} of {dtype} is {bits} bits, which is not a whole number of bytes")
    if bits // 8 != n_bytes:
        refuse(f"shape {shape} of {dtype} takes {bits // 8:,} bytes, data_offsets span {n_bytes:,}")
    return TensorInfo(name, dtype, tuple(shape), path, data_start + offsets[0], n_bytes)


def _are_counts(values: object) -> bool:
    """Tell whether `values` is a list of non-negative integers; JSON's true is not one, nor is 1.0."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= _MAX_COUNT for value in values)


def _check_packing(path: Path, tensors: list[TensorInfo], data_start: int, size_bytes: int) -> None:
    """Hold the tensors, sorted by offset, against each other and the file: no hole, no overlap, nothing after."""
    if tensors and tensors[0].offset_bytes != data_start:
        raise SafetensorsError(
            path, f"tensor {shown(tensors[0].name)} begins {tensors[0].offset_bytes - data_start:,} bytes into the data"
        )
    for before, after in pairwise(tensors):
        gap = after.offset_bytes - (before.offset_bytes + before.n_bytes)
        if gap:
            what = f"a hole of {gap:,} bytes" if gap > 0 else f"an overlap of {-gap:,} bytes"
            raise SafetensorsError(path, f"{what} between tensors {shown(before.name)} and {shown(after.name)}")
    end = tensors[-1].offset_bytes + tensors[-1].n_bytes if tensors else data_start
    if end > size_bytes:
        raise SafetensorsError(path, f"its tensors end at byte {end:,}, the file at {size_bytes:,}", _CUT_OFF)
    if end < size_bytes:
        raise SafetensorsError(path, f"{size_bytes - end:,} bytes follow the last tensor")
