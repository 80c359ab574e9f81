"""The two packings of group-quantized integers that GPU servers load: AutoAWQ's "gemm" and GPTQ. Arrays in, arrays out.

A weight is `(code - zero) * scale`. Codes are whole numbers of 4 bits; along a row of `n_in` weights, each group of
inputs shares one scale and one zero. Here everything lies as a checkpoint's `weight` does, (n_out, n_in) and
(n_out, n_groups); both packings store it transposed, eight numbers in an int32 (bit 31 left, bit 0 right):

    AWQ gemm    qweight (n_in, n_out/8)       a word: eight outputs 8c+… of one input
                                              | 7 | 5 | 3 | 1 | 6 | 4 | 2 | 0 |
                qzeros  (n_groups, n_out/8)   the same, of one group
                scales  (n_groups, n_out)     f16

    GPTQ        qweight (n_in/8, n_out)       a word: eight inputs 8r+… of one output
                                              | 7 | 6 | 5 | 4 | 3 | 2 | 1 | 0 |
                qzeros  (n_groups, n_out/8)   a word: eight outputs 8c+… of one group, in the same order; each less 1
                                              in "gptq", as it is in "gptq_v2"
                scales  (n_groups, n_out)     f16
                g_idx   (n_in,)               the group of each input; with desc_act in any order

GPTQ also stores 8 bits (four numbers in an int32) and 2 bits by the same rule. Nothing of a word depends on its
neighbours: whole columns of the stored arrays can be unpacked alone, which are eight outputs, or one of GPTQ's qweight.

Sources: awq/modules/linear/gemm.py of casper-hansen/AutoAWQ (`order_map`), qlinear/__init__.py of ModelCloud/GPTQModel.
Knows nothing of files, names or how codes are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

GptqFormat = Literal["gptq", "gptq_v2"]

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # which of the eight outputs lies in each nibble, from bit 0 up
_GATHERED_INPUTS = 2048  # whose zeros and scales are spread out at a time


def pack_awq(
    codes: NDArray[np.uint8], zeros: NDArray[np.uint8], scales: NDArray[np.floating]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float16]]:
    """Return qweight i32 (n_in, n_out/8), qzeros i32 (n_groups, n_out/8) and scales f16 (n_groups, n_out).

    Args:
        codes: (n_out, n_in), 0 to 15; n_out is a multiple of 8.
        zeros: (n_out, n_groups), 0 to 15; all groups are equally long.
        scales: (n_out, n_groups), f16 or f32; f32 is rounded to f16, so choose codes for scales that were rounded.

    Raises:
        ValueError: shapes that do not fit each other, numbers beyond 15, or scales that f16 cannot hold.
    """
    _check_group_shapes(codes, zeros, scales)
    _group_size(codes.shape[1], zeros.shape[1])
    _check_multiple(codes.shape[0], 8, "outputs")
    qweight = _pack(_within(codes, 15, "codes"), 4, _AWQ_ORDER).T
    qzeros = _pack(_within(zeros, 15, "zeros"), 4, _AWQ_ORDER).T
    return np.ascontiguousarray(qweight), np.ascontiguousarray(qzeros), _stored_scales(scales)


def unpack_awq(
    qweight: NDArray[np.int32], qzeros: NDArray[np.int32], scales: NDArray[np.floating]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.floating]]:
    """Return codes u8 (n_out, n_in), zeros u8 (n_out, n_groups) and scales (n_out, n_groups): what `pack_awq` took.

    Args:
        qweight: i32 (n_in, n_out/8); any columns of a stored one.
        qzeros: i32 (n_groups, n_out/8), the same columns.
        scales: f16 or f32 (n_groups, n_out), eight times those columns; returned transposed, not copied.

    Raises:
        ValueError: types or shapes that do not fit each other.
    """
    _check_words(qweight=qweight, qzeros=qzeros)
    n_groups, n_out = _scales_shape(scales)
    if qweight.shape[1] * 8 != n_out or qzeros.shape != (n_groups, n_out // 8):
        raise ValueError(
            f"AWQ qweight {qweight.shape}, qzeros {qzeros.shape} and scales {scales.shape} do not fit each other"
        )
    _group_size(qweight.shape[0], n_groups)
    return _unpack(qweight.T, 4, _AWQ_ORDER), _unpack(qzeros.T, 4, _AWQ_ORDER), scales.T


def pack_gptq(
    codes: NDArray[np.uint8],
    zeros: NDArray[np.integer],
    scales: NDArray[np.floating],
    g_idx: NDArray[np.integer],
    *,
    checkpoint_format: GptqFormat = "gptq",
    bits: int = 4,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float16], NDArray[np.int32]]:
    """Return qweight i32 (n_in*bits/32, n_out), qzeros i32 (n_groups, n_out*bits/32), scales f16, g_idx i32 (n_in,).

    Args:
        codes: (n_out, n_in), 0 to 2**bits - 1; n_in and n_out are multiples of 32/bits.
        zeros: (n_out, n_groups): 0 to 2**bits - 1 in "gptq_v2". In "gptq" 1 to 2**bits - 1: a zero of 0 would be stored
            as -1, and loaders differ in what they read then.
        scales: (n_out, n_groups), f16 or f32; f32 is rounded to f16, so choose codes for scales that were rounded.
        g_idx: (n_in,), each 0 to n_groups - 1; `group_index` gives the usual one.
        checkpoint_format: "gptq" stores zeros less 1, "gptq_v2" as they are.
        bits: 2, 4 or 8.

    Raises:
        ValueError: shapes that do not fit each other, numbers out of range, or scales that f16 cannot hold.
    """
    order = _gptq_order(bits)
    _check_group_shapes(codes, zeros, scales)
    _check_multiple(codes.shape[0], len(order), "outputs")
    _check_multiple(codes.shape[1], len(order), "inputs")
    offset, largest = _zero_offset(checkpoint_format), 2**bits - 1
    if zeros.size and int(zeros.min()) < offset:
        raise ValueError(f'zeros go down to {zeros.min()}; "{checkpoint_format}" stores {offset} to {largest}')
    qweight = _pack(_within(codes, largest, "codes").T, bits, order)
    qzeros = _pack((_within(zeros, largest, "zeros") - offset).astype(np.uint8), bits, order).T
    index = _checked_index(g_idx, codes.shape[1], zeros.shape[1])
    return np.ascontiguousarray(qweight), np.ascontiguousarray(qzeros), _stored_scales(scales), index


def unpack_gptq(
    qweight: NDArray[np.int32],
    qzeros: NDArray[np.int32],
    scales: NDArray[np.floating],
    *,
    checkpoint_format: GptqFormat = "gptq",
    bits: int = 4,
) -> tuple[NDArray[np.uint8], NDArray[np.uint16], NDArray[np.floating]]:
    """Return codes u8 (n_out, n_in), zeros u16 (n_out, n_groups) and scales (n_out, n_groups): what `pack_gptq` took.

    g_idx is stored as it is. A stored zero of all ones is 2**bits in "gptq", as llama.cpp and vLLM read it.

    Args:
        qweight: i32 (n_in*bits/32, n_out); any columns of a stored one.
        qzeros: i32 (n_groups, n_out*bits/32), those of the same outputs.
        scales: f16 or f32 (n_groups, n_out), of the same outputs; returned transposed, not copied.
        checkpoint_format: "gptq" stores zeros less 1, "gptq_v2" as they are.
        bits: 2, 4 or 8.

    Raises:
        ValueError: types or shapes that do not fit each other.
    """
    order = _gptq_order(bits)
    _check_words(qweight=qweight, qzeros=qzeros)
    n_groups, n_out = _scales_shape(scales)
    if qweight.shape[1] != n_out or (qzeros.shape[0], qzeros.shape[1] * len(order)) != (n_groups, n_out):
        raise ValueError(
            f"GPTQ qweight {qweight.shape}, qzeros {qzeros.shape} and scales {scales.shape} do not fit each other"
        )
    zeros = _unpack(qzeros.T, bits, order).astype(np.uint16) + np.uint16(_zero_offset(checkpoint_format))
    return np.ascontiguousarray(_unpack(qweight, bits, order).T), zeros, scales.T


def group_index(n_in: int, group_size: int) -> NDArray[np.int32]:
    """Return g_idx i32 (n_in,) of groups that lie in order; the last one may be shorter. -1: one group for all."""
    return np.arange(n_in, dtype=np.int32) // np.int32(n_in if group_size == -1 else group_size)


def dequantize_groups(
    codes: NDArray[np.uint8],
    zeros: NDArray[np.integer],
    scales: NDArray[np.floating],
    g_idx: NDArray[np.integer] | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return `(code - zero) * scale` as f32 (n_out, n_in), exactly: nine bits times the eleven of an f16.

    Args:
        codes: u8 (n_out, n_in).
        zeros: (n_out, n_groups), 0 to 256.
        scales: f16, or f32 with the values of f16 or bf16, (n_out, n_groups).
        g_idx: (n_in,), the group of each input; None: groups of equal length, in order.
        out: C-contiguous f32 (n_out, n_in) to fill and return; None: a new array.

    Raises:
        ValueError: shapes that do not fit each other, or a group that does not exist.
    """
    _check_group_shapes(codes, zeros, scales)
    weights = np.empty(codes.shape, np.float32) if out is None else out
    if weights.shape != codes.shape or weights.dtype != np.float32 or not weights.flags.c_contiguous:
        raise ValueError(f"out must be contiguous float32 {codes.shape}, not {weights.dtype} {weights.shape}")
    wide_zeros, wide_scales = zeros.astype(np.float32), scales.astype(np.float32)
    (n_out, n_in), n_groups = codes.shape, zeros.shape[1]
    if g_idx is None:
        groups = (n_out, n_groups, _group_size(n_in, n_groups))
        grouped = weights.reshape(groups)
        np.subtract(codes.reshape(groups), wide_zeros[:, :, None], out=grouped)
        grouped *= wide_scales[:, :, None]
        return weights
    index = _checked_index(g_idx, n_in, n_groups)
    for first in range(0, n_in, _GATHERED_INPUTS):
        part = slice(first, first + _GATHERED_INPUTS)
        np.subtract(codes[:, part], wide_zeros[:, index[part]], out=weights[:, part])
        weights[:, part] *= wide_scales[:, index[part]]
    return weights


def _pack(numbers: NDArray[np.uint8], bits: int, order: Sequence[int]) -> NDArray[np.int32]:
    """Return (n / len(order), …) words of (n, …) numbers: number `order[i]` of each word from bit `i * bits` up."""
    words = np.zeros((numbers.shape[0] // len(order), *numbers.shape[1:]), np.uint32)
    for position, which in enumerate(order):
        words |= numbers[which :: len(order)].astype(np.uint32) << np.uint32(position * bits)
    return words.view(np.int32)


def _unpack(words: NDArray[np.int32], bits: int, order: Sequence[int]) -> NDArray[np.uint8]:
    """Return (n * len(order), …) numbers of (n, …) words: the inverse of `_pack`."""
    numbers = np.empty((words.shape[0] * len(order), *words.shape[1:]), np.uint8)
    unsigned = np.ascontiguousarray(words).view(np.uint32)  # transposed ones are gone through once, not eight times
    mask = np.uint32(2**bits - 1)
    for position, which in enumerate(order):
        numbers[which :: len(order)] = (unsigned >> np.uint32(position * bits)) & mask
    return numbers


def _gptq_order(bits: int) -> range:
    if bits not in (2, 4, 8):
        raise ValueError(f"GPTQ stores 2, 4 or 8 bits here, not {bits}")
    return range(32 // bits)


def _zero_offset(checkpoint_format: str) -> int:
    offsets = {"gptq": 1, "gptq_v2": 0}
    if checkpoint_format not in offsets:
        raise ValueError(f"checkpoint format must be gptq or gptq_v2, not {checkpoint_format}")
    return offsets[checkpoint_format]


def _check_group_shapes(codes: NDArray[np.uint8], zeros: NDArray[np.integer], scales: NDArray[np.floating]) -> None:
    if codes.ndim != 2 or zeros.ndim != 2 or zeros.shape != scales.shape or zeros.shape[0] != codes.shape[0]:
        raise ValueError(
            f"codes {codes.shape}, zeros {zeros.shape} and scales {scales.shape} do not fit each other: "
            "(n_out, n_in) and twice (n_out, n_groups)"
        )


def _check_words(**arrays: NDArray[np.int32]) -> None:
    for name, array in arrays.items():
        if array.ndim != 2 or array.dtype != np.int32:
            raise ValueError(f"{name} must be int32 of two dimensions, not {array.dtype} {array.shape}")


def _scales_shape(scales: NDArray[np.floating]) -> tuple[int, int]:
    if scales.ndim != 2:
        raise ValueError(f"scales must have two dimensions, not {scales.ndim}")
    return scales.shape[0], scales.shape[1]


def _check_multiple(count: int, divisor: int, what: str) -> None:
    if count % divisor:
        raise ValueError(f"{count} {what} are not a multiple of {divisor}, as many as lie in an int32")


def _group_size(n_in: int, n_groups: int) -> int:
    if n_groups < 1 or n_in % n_groups:
        raise ValueError(f"{n_in} inputs are not {n_groups} groups of equal length")
    return n_in // n_groups


def _within(numbers: NDArray[np.integer], largest: int, what: str) -> NDArray[np.uint8]:
    """Return the numbers as u8, 0 to `largest`. `what`: for the error."""
    if numbers.size and not 0 <= int(numbers.min()) <= int(numbers.max()) <= largest:
        raise ValueError(f"{what} must be 0 to {largest}, not {numbers.min()} to {numbers.max()}")
    return numbers.astype(np.uint8, copy=False)


def _stored_scales(scales: NDArray[np.floating]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        stored = np.ascontiguousarray(scales.T.astype(np.float16))
    if not np.isfinite(stored).all():
        raise ValueError("a scale is NaN, infinite or beyond what f16 holds, 65,504")
    return stored


def _checked_index(g_idx: NDArray[np.integer], n_in: int, n_groups: int) -> NDArray[np.int32]:
    if g_idx.shape != (n_in,) or (n_in and not 0 <= int(g_idx.min()) <= int(g_idx.max()) < n_groups):
        raise ValueError(f"g_idx must name one of {n_groups} groups for each of {n_in} inputs")
    return g_idx.astype(np.int32)
