"""The GGUF container: its numbers, and the byte layout that reader and writer share.

    offset 0     "GGUF"              magic
           4     u32                 version: 2 or 3 (the same layout; 3 adds big-endian files, which are refused)
           8     u64                 number of tensors
          16     u64                 number of key-value pairs
          24     pairs               string key, u32 value type, value
                 tensor infos        string name, u32 n_dims, u64 dims[n_dims] (innermost first), u32 ggml type,
                                     u64 offset
                 zeros               up to a multiple of the alignment: the data section starts here
                 data                each tensor at its offset from the start of the data section, followed by zeros
                                     up to a multiple of the alignment

    string = u64 length in bytes, the bytes (UTF-8, no terminator)
    array  = u32 element type, u64 count, the elements

All numbers are little-endian. The alignment is `general.alignment`, 32 where that key is missing.
Source: docs/gguf.md of ggml; bounds and names: gguf.cpp and gguf.h of llama.cpp 0c1e57098.
"""

from __future__ import annotations

from enum import IntEnum

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
ALIGNMENT_KEY = "general.alignment"
MIN_ALIGNMENT, MAX_ALIGNMENT = 8, 1 << 16  # the format says multiples of 8; the upper bound is ours, llama.cpp has none
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME is 64 with the terminator


class GgufValueType(IntEnum):
    """`enum gguf_type`: how a value of the metadata is stored."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


NUMBER_FORMATS: dict[GgufValueType, str] = {
    GgufValueType.UINT8: "<u1",
    GgufValueType.INT8: "<i1",
    GgufValueType.UINT16: "<u2",
    GgufValueType.INT16: "<i2",
    GgufValueType.UINT32: "<u4",
    GgufValueType.INT32: "<i4",
    GgufValueType.FLOAT32: "<f4",
    GgufValueType.BOOL: "|b1",
    GgufValueType.UINT64: "<u8",
    GgufValueType.INT64: "<i8",
    GgufValueType.FLOAT64: "<f8",
}
"""numpy formats of the value types of fixed size."""


def padded(n_bytes: int, alignment: int) -> int:
    """Return `n_bytes` rounded up to a multiple of `alignment`."""
    return -(-n_bytes // alignment) * alignment


def is_valid_alignment(alignment: int) -> bool:
    """Tell whether `alignment` is a power of two within the bounds."""
    return MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT and alignment & (alignment - 1) == 0
