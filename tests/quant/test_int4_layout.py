"""AWQ's and GPTQ's packings: words written down by hand from the formats, round trips, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from quant.codecs.int4_layout import (
    dequantize_groups,
    group_index,
    pack_awq,
    pack_gptq,
    unpack_awq,
    unpack_gptq,
)

# Eight outputs of two inputs: output i has code i for input 0 and 15 - i for input 1; zeros 8, 1, 2, …, 7.
_CODES = np.array([[i, 15 - i] for i in range(8)], np.uint8)
_ZEROS = np.array([[8], [1], [2], [3], [4], [5], [6], [7]], np.uint8)
_SCALES = np.array([[0.5], [1], [2], [3], [4], [5], [6], [7]], np.float32)


def _words(*unsigned: int) -> np.ndarray:
    return np.array(unsigned, np.uint32).view(np.int32)


def test_words_of_awq() -> None:
    """From bit 31 down a word holds outputs 7 5 3 1 6 4 2 0."""
    qweight, qzeros, scales = pack_awq(_CODES, _ZEROS, _SCALES)
    np.testing.assert_array_equal(qweight, _words(0x75316420, 0x8ACE9BDF).reshape(2, 1))
    np.testing.assert_array_equal(qzeros, _words(0x75316428).reshape(1, 1))
    assert scales.dtype == np.float16
    assert scales.tolist() == [[0.5, 1, 2, 3, 4, 5, 6, 7]]


def test_words_of_awq_are_read() -> None:
    # two columns of words: outputs 0-7 and 8-15, one input, one group
    codes, zeros, scales = unpack_awq(
        _words(0x75316420, 0xFDB9ECA8).reshape(1, 2), _words(0x00000001, 0x10000000).reshape(1, 2), np.ones((1, 16))
    )
    assert codes.reshape(-1).tolist() == list(range(16))
    assert zeros.reshape(-1).tolist() == [1] + [0] * 14 + [1]
    assert scales.shape == (16, 1)


def test_words_of_gptq() -> None:
    """From bit 31 down a word holds inputs, or of zeros outputs, 7 6 5 4 3 2 1 0; zeros are stored less one."""
    codes = np.array([[1, 2, 3, 4, 5, 6, 7, 8]] + [[15, 0, 0, 0, 0, 0, 0, 9]] * 7, np.uint8)
    g_idx = np.zeros(8, np.int32)
    qweight, qzeros, scales, index = pack_gptq(codes, _ZEROS, _SCALES, g_idx)
    np.testing.assert_array_equal(qweight, _words(0x87654321, *[0x9000000F] * 7).reshape(1, 8))
    np.testing.assert_array_equal(qzeros, _words(0x65432107).reshape(1, 1))
    assert scales.tolist() == [[0.5, 1, 2, 3, 4, 5, 6, 7]]
    assert index.tolist() == [0] * 8
    assert pack_gptq(codes, _ZEROS, _SCALES, g_idx, checkpoint_format="gptq_v2")[1].tolist() == [[0x76543218]]


def test_words_of_gptq_with_8_bits() -> None:
    codes = np.array([[1, 2, 3, 255]] * 4, np.uint8)
    zeros = np.array([[128], [1], [2], [255]], np.uint8)
    qweight, qzeros, *_ = pack_gptq(codes, zeros, np.ones((4, 1)), np.zeros(4, np.int32), bits=8)
    np.testing.assert_array_equal(qweight, _words(*[0xFF030201] * 4).reshape(1, 4))
    np.testing.assert_array_equal(qzeros, _words(0xFE01007F).reshape(1, 1))


def test_a_stored_zero_of_all_ones_is_one_more_than_the_largest_code() -> None:
    words, ones = np.zeros((1, 8), np.int32), np.full((1, 1), -1, np.int32)
    assert unpack_gptq(words, ones, np.ones((1, 8)))[1].tolist() == [[16]] * 8
    assert unpack_gptq(words, ones, np.ones((1, 8)), checkpoint_format="gptq_v2")[1].tolist() == [[15]] * 8
    eight_bit = unpack_gptq(np.zeros((1, 4), np.int32), ones, np.ones((1, 4)), bits=8)[1]
    assert eight_bit.tolist() == [[256]] * 4


def test_awq_comes_back() -> None:
    random = np.random.default_rng(1)
    codes = random.integers(0, 16, (24, 192), np.uint8)
    zeros = random.integers(0, 16, (24, 3), np.uint8)
    scales = random.random((24, 3)).astype(np.float16)
    packed = pack_awq(codes, zeros, scales)
    assert [part.flags.c_contiguous for part in packed] == [True] * 3
    for found, expected in zip(unpack_awq(*packed), (codes, zeros, scales), strict=True):
        np.testing.assert_array_equal(found, expected)
    some = unpack_awq(packed[0][:, 1:], packed[1][:, 1:], packed[2][:, 8:])  # outputs 8 on, from views
    for found, expected in zip(some, (codes, zeros, scales), strict=True):
        np.testing.assert_array_equal(found, expected[8:])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("checkpoint_format", ["gptq", "gptq_v2"])
def test_gptq_comes_back(bits: int, checkpoint_format: str) -> None:
    random = np.random.default_rng(bits)
    codes = random.integers(0, 2**bits, (32, 96), np.uint8)
    zeros = random.integers(1, 2**bits, (32, 3), np.uint8)
    scales = random.random((32, 3)).astype(np.float16)
    g_idx = random.permutation(group_index(96, 32))
    qweight, qzeros, stored, index = pack_gptq(
        codes, zeros, scales, g_idx, checkpoint_format=checkpoint_format, bits=bits
    )
    assert qweight.shape == (96 * bits // 32, 32)
    assert qzeros.shape == (3, bits)
    for found, expected in zip(
        unpack_gptq(qweight, qzeros, stored, checkpoint_format=checkpoint_format, bits=bits),
        (codes, zeros, scales),
        strict=True,
    ):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(index, g_idx)
    part = unpack_gptq(
        qweight[:, 16:], qzeros[:, bits // 2 :], stored[:, 16:], checkpoint_format=checkpoint_format, bits=bits
    )
    np.testing.assert_array_equal(part[0], codes[16:])
    np.testing.assert_array_equal(part[1], zeros[16:])


def test_weights_are_codes_less_zeros_times_scales() -> None:
    codes = np.array([[0, 15, 3, 8], [1, 2, 3, 4]], np.uint8)
    zeros = np.array([[8, 3], [0, 16]], np.uint16)
    scales = np.array([[0.5, 2], [0.25, 1]], np.float16)
    weights = dequantize_groups(codes, zeros, scales)
    assert weights.dtype == np.float32
    assert weights.tolist() == [[-4, 3.5, 0, 10], [0.25, 0.5, -13, -12]]
    turned = dequantize_groups(codes, zeros, scales, np.array([1, 0, 1, 0]))
    assert turned.tolist() == [[-6, 3.5, 0, 0], [-15, 0.5, -13, 1]]


def test_weights_are_exact() -> None:
    """Every code, zero and f16 scale of odd bits: the f32 product is that of f64."""
    scales = np.array([[0x03FF, 0x0001, 0x7BFF, 0x3C01]], np.uint16).view(np.float16)
    codes = np.tile(np.arange(256, dtype=np.uint8), (1, 4))
    for zero in (0, 1, 8, 255, 256):
        zeros = np.full((1, 4), zero, np.uint16)
        exact = (codes.astype(np.float64) - zero) * scales.astype(np.float64).repeat(256, axis=1)
        np.testing.assert_array_equal(dequantize_groups(codes, zeros, scales).astype(np.float64), exact)


def test_group_index() -> None:
    assert group_index(5, 2).tolist() == [0, 0, 1, 1, 2]
    assert group_index(3, -1).tolist() == [0, 0, 0]


def test_refuses_awq_that_does_not_fit() -> None:
    codes, zeros, scales = np.zeros((8, 4), np.uint8), np.zeros((8, 2), np.uint8), np.ones((8, 2), np.float32)
    pack_awq(codes, zeros, scales)
    for bad, match in (
        ((codes[:7], zeros[:7], scales[:7]), "7 outputs are not a multiple of 8"),
        ((codes[:, :3], zeros, scales), "3 inputs are not 2 groups"),
        ((codes, zeros[:, :0], scales[:, :0]), "4 inputs are not 0 groups"),
        ((codes, zeros, scales[:, :1]), "do not fit each other"),
        ((codes, zeros[:7], scales[:7]), "do not fit each other"),
        ((codes + 16, zeros, scales), "codes must be 0 to 15, not 16 to 16"),
        ((codes, zeros + 16, scales), "zeros must be 0 to 15, not 16 to 16"),
        ((codes, zeros, scales * 1e5), "beyond what f16 holds"),
        ((codes, zeros, scales * np.nan), "NaN"),
    ):
        with pytest.raises(ValueError, match=match):
            pack_awq(*bad)
    qweight, qzeros, stored = pack_awq(codes, zeros, scales)
    for bad, match in (
        ((qweight, qzeros[:1], stored), "do not fit each other"),
        ((qweight, qzeros, stored[:, :4]), "do not fit each other"),
        ((qweight[:3], qzeros, stored), "3 inputs are not 2 groups"),
        ((qweight.view(np.uint32), qzeros, stored), "qweight must be int32 of two dimensions, not uint32"),
    ):
        with pytest.raises(ValueError, match=match):
            unpack_awq(*bad)


def test_refuses_gptq_that_does_not_fit() -> None:
    codes, zeros, scales = np.zeros((8, 8), np.uint8), np.ones((8, 2), np.uint8), np.ones((8, 2), np.float32)
    g_idx = group_index(8, 4)
    pack_gptq(codes, zeros, scales, g_idx)
    for bad, match in (
        ((codes[:, :7], zeros, scales, g_idx[:7]), "7 inputs are not a multiple of 8"),
        ((codes[:7], zeros[:7], scales[:7], g_idx), "7 outputs are not a multiple of 8"),
        ((codes, zeros - 1, scales, g_idx), '"gptq" stores 1 to 15'),
        ((codes, zeros + 15, scales, g_idx), "zeros must be 0 to 15"),
        ((codes, zeros, scales, g_idx[:7]), "g_idx must name one of 2 groups for each of 8 inputs"),
        ((codes, zeros, scales, g_idx + 1), "g_idx must name one of 2 groups"),
        ((codes, zeros, scales, g_idx - 1), "g_idx must name one of 2 groups"),
    ):
        with pytest.raises(ValueError, match=match):
            pack_gptq(*bad)
    with pytest.raises(ValueError, match="checkpoint format must be gptq or gptq_v2, not marlin"):
        pack_gptq(codes, zeros, scales, g_idx, checkpoint_format="marlin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2, 4 or 8 bits here, not 3"):
        pack_gptq(codes, zeros, scales, g_idx, bits=3)
    qweight, qzeros, stored, _ = pack_gptq(codes, zeros - 1, scales, g_idx, checkpoint_format="gptq_v2")
    for bad in ((qweight[:, :7], qzeros, stored), (qweight, qzeros[:1], stored), (qweight, qzeros, stored[:, :7])):
        with pytest.raises(ValueError, match="do not fit each other"):
            unpack_gptq(*bad)
    with pytest.raises(ValueError, match="g_idx must name"):
        dequantize_groups(codes, zeros, scales, np.full(8, 2))
