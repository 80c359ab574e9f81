"""Native codecs: the bytes are llama.cpp's, the numbers gguf-py's, and no bad argument reaches the library."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import gguf
import gguf.quants
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quant.codecs.native import ENCODABLE_TYPES, BadRowsError, decode_rows, encode_rows
from quant.ggml_types import GGML_TYPES, GgmlType
from quant.libggml import LibGgml

_GGUF_PY_ENCODES = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")

# Root mean square error over that of the weights, on normal weights; a codec that mixes up scales is far above it.
_RELATIVE_ERROR = {
    "F32": 0.0, "F16": 3e-4, "BF16": 3e-3, "Q8_0": 0.01, "Q6_K": 0.03, "Q5_K": 0.05, "Q5_1": 0.05, "Q5_0": 0.06,
    "Q4_K": 0.09, "Q4_1": 0.1, "Q4_0": 0.11, "IQ4_XS": 0.09, "IQ4_NL": 0.09, "MXFP4": 0.15, "Q3_K": 0.17, "Q2_K": 0.33,
}  # fmt: skip


def _normal(n_rows: int, n_columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_rows, n_columns), dtype=np.float32)


@pytest.mark.parametrize("ggml_type", ENCODABLE_TYPES, ids=lambda entry: entry.name)
def test_decoding_is_gguf_py_s(lib: LibGgml, ggml_type: GgmlType) -> None:
    encoded = encode_rows(lib, ggml_type, _normal(5, 512))
    assert encoded.shape == (5, ggml_type.row_bytes(512))
    theirs = gguf.quants.dequantize(encoded, gguf.GGMLQuantizationType[ggml_type.name])
    np.testing.assert_allclose(decode_rows(lib, ggml_type, encoded, 512), theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", _GGUF_PY_ENCODES)
def test_encoding_is_gguf_py_s(lib: LibGgml, name: str) -> None:
    rows = _normal(7, 256)
    rows[0] = 0.0
    rows[1, :32] = 1e-30
    theirs = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(encode_rows(lib, GGML_TYPES[name], rows), theirs.view(np.uint8))


@pytest.mark.parametrize("ggml_type", ENCODABLE_TYPES, ids=lambda entry: entry.name)
def test_error_of_the_round_trip(lib: LibGgml, ggml_type: GgmlType) -> None:
    rows = _normal(16, 1024)
    decoded = decode_rows(lib, ggml_type, encode_rows(lib, ggml_type, rows), 1024)
    assert np.sqrt(np.mean((decoded - rows) ** 2)) <= _RELATIVE_ERROR[ggml_type.name]


@settings(deadline=None, max_examples=40)
@given(
    rows=hnp.arrays(np.float32, (2, 256), elements=st.floats(-65504.0, 65504.0, width=32)),
    ggml_type=st.sampled_from(ENCODABLE_TYPES),
    weighted=st.booleans(),
)
def test_whatever_is_encoded_decodes_to_something_finite(
    lib: LibGgml, rows: np.ndarray, ggml_type: GgmlType, weighted: bool
) -> None:
    imatrix = np.linspace(0.0, 3.0, 256, dtype=np.float32) if weighted else None
    decoded = decode_rows(lib, ggml_type, encode_rows(lib, ggml_type, rows, imatrix), 256)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("name", ["Q4_1", "Q5_1"])
def test_a_minimum_that_ggml_found_beyond_f16_is_not_kept(lib: LibGgml, name: str) -> None:
    dice, imatrix = np.random.default_rng(0), np.linspace(0.0, 3.0, 256, dtype=np.float32)
    rows = np.zeros((1024, 256), np.float32)
    for row in rows:
        row[dice.integers(0, 256, 4)] = dice.choice([-65504.0, 65504.0, -60000.0, 10568.0], 4)
    encoded = encode_rows(lib, GGML_TYPES[name], rows, imatrix)
    assert np.isfinite(decode_rows(lib, GGML_TYPES[name], encoded, 256)).all()


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL", "Q4_0", "Q3_K", "Q2_K"])
def test_importance_matrix_lowers_the_weighted_error(lib: LibGgml, name: str) -> None:
    rows, ggml_type = _normal(32, 512), GGML_TYPES[name]
    imatrix = np.random.default_rng(1).exponential(size=512).astype(np.float32) ** 3 + np.float32(1e-3)
    errors = [
        float(np.sum(imatrix * (decode_rows(lib, ggml_type, encode_rows(lib, ggml_type, rows, use), 512) - rows) ** 2))
        for use in (None, imatrix)
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize("ggml_type", ENCODABLE_TYPES, ids=lambda entry: entry.name)
def test_importance_matrix_of_zeros_does_no_harm(lib: LibGgml, ggml_type: GgmlType) -> None:
    rows = _normal(2, 256)
    decoded = decode_rows(lib, ggml_type, encode_rows(lib, ggml_type, rows, np.zeros(256, np.float32)), 256)
    assert np.isfinite(decoded).all()


def test_rows_are_independent_and_threads_agree(lib: LibGgml) -> None:
    rows, ggml_type = _normal(64, 512), GGML_TYPES["Q4_K"]
    whole = encode_rows(lib, ggml_type, rows)
    with ThreadPoolExecutor(4) as pool:
        pieces = list(pool.map(lambda first: encode_rows(lib, ggml_type, rows[first : first + 4]), range(0, 64, 4)))
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 70000.0])
@pytest.mark.parametrize("name", ["Q4_K", "Q8_0", "F16", "IQ4_NL", "MXFP4"])
def test_weights_that_cannot_be_stored(lib: LibGgml, name: str, value: float) -> None:
    rows = _normal(3, 256)
    rows[1, 77] = value
    with pytest.raises(BadRowsError, match=rf"at row 1, column 77 cannot be stored as {name}"):
        encode_rows(lib, GGML_TYPES[name], rows)


def test_large_weights_that_can(lib: LibGgml) -> None:
    for name in ("F32", "BF16"):
        rows = np.full((1, 4), 1e38, np.float32)
        decoded = decode_rows(lib, GGML_TYPES[name], encode_rows(lib, GGML_TYPES[name], rows), 4)
        np.testing.assert_allclose(decoded, rows, rtol=0.01)


_Q4_K, _Q8_0 = GGML_TYPES["Q4_K"], GGML_TYPES["Q8_0"]


@pytest.mark.parametrize(
    ("ggml_type", "rows", "imatrix", "message"),
    [
        (GGML_TYPES["Q8_K"], _normal(1, 256), None, "Q8_K cannot be encoded"),
        (GGML_TYPES["IQ2_XXS"], _normal(1, 256), None, "IQ2_XXS cannot be encoded"),
        (GGML_TYPES["F64"], _normal(1, 256), None, "F64 cannot be encoded"),
        (_Q4_K, _normal(1, 100), None, "a row of 100 does not divide"),
        (_Q4_K, np.zeros((3, 0), np.float32), None, "rows of no columns"),
        (_Q4_K, _normal(1, 256).astype(np.float64), None, "must be contiguous float32 of 2 dimensions, not float64"),
        (_Q4_K, _normal(1, 256).astype(">f4"), None, "must be contiguous float32"),
        (_Q4_K, _normal(1, 256)[0], None, r"not float32 \(256,\)"),
        (_Q4_K, _normal(256, 256).T, None, "must be contiguous"),
        (_Q4_K, _normal(2, 512)[:, ::2], None, "must be contiguous"),
        (_Q4_K, np.zeros(1025, np.uint8)[1:].view(np.float32).reshape(1, 256), None, "must be contiguous"),
        (_Q4_K, _normal(1, 256), np.ones(255, np.float32), "importance matrix of 255 columns for rows of 256"),
        (_Q4_K, _normal(1, 256), np.ones((1, 256), np.float32), "must be contiguous float32 of 1 dimensions"),
        (_Q4_K, _normal(1, 256), np.ones(256, np.float64), "must be contiguous float32"),
        (_Q4_K, _normal(1, 256), np.full(256, np.nan, np.float32), "NaN, infinity or negative"),
        (_Q4_K, _normal(1, 256), -np.ones(256, np.float32), "NaN, infinity or negative"),
    ],
)
def test_bad_arguments_of_encoding(
    lib: LibGgml, ggml_type: GgmlType, rows: np.ndarray, imatrix: np.ndarray | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encode_rows(lib, ggml_type, rows, imatrix)


@pytest.mark.parametrize(
    ("ggml_type", "encoded", "n_columns", "message"),
    [
        (_Q8_0, np.zeros((1, 34), np.uint8), 64, "64 weights of Q8_0 take 68 bytes a row, not 34"),
        (_Q8_0, np.zeros((1, 34), np.uint8), 33, "a row of 33 does not divide"),
        (_Q8_0, np.zeros((1, 34), np.int8), 32, "must be contiguous uint8"),
        (_Q8_0, np.zeros(34, np.uint8), 32, "of 2 dimensions"),
        (_Q8_0, np.zeros((2, 68), np.uint8)[:, ::2], 32, "must be contiguous"),
        (_Q8_0, np.zeros((1, 0), np.uint8), 0, "rows of no columns"),
        (GGML_TYPES["Q8_K"], np.zeros((1, 292), np.uint8), 256, "Q8_K cannot be decoded"),
        (GGML_TYPES["I8"], np.zeros((1, 4), np.uint8), 4, "I8 cannot be decoded"),
    ],
)
def test_bad_arguments_of_decoding(
    lib: LibGgml, ggml_type: GgmlType, encoded: np.ndarray, n_columns: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        decode_rows(lib, ggml_type, encoded, n_columns)


def test_a_buffer_of_the_caller_is_filled_at_its_front(lib: LibGgml) -> None:
    rows, out = _normal(3, 64), np.full(300, 7, np.uint8)
    encoded = encode_rows(lib, _Q8_0, rows, out=out)
    assert np.shares_memory(encoded, out)
    np.testing.assert_array_equal(encoded, encode_rows(lib, _Q8_0, rows))
    assert (out[3 * 68 :] == 7).all()
    for bad in (out[:203], out[::2], out.view(np.int8), out.reshape(2, 150)):
        with pytest.raises(ValueError, match="the buffer must be"):
            encode_rows(lib, _Q8_0, rows, out=bad)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        encode_rows(lib, _Q8_0, rows, out=out)


def test_many_rows_are_encoded_in_blocks(lib: LibGgml) -> None:
    """More than is checked at once: the bytes are those of one native call, and errors name the right row."""
    rows = _normal(900, 512)
    direct = np.empty((900, 288), np.uint8)
    lib.quantize_chunk(_Q4_K.type_id, rows.ctypes.data, direct.ctypes.data, 900, 512, None)
    np.testing.assert_array_equal(encode_rows(lib, _Q4_K, rows), direct)
    rows[899, 3] = np.nan
    with pytest.raises(BadRowsError, match="nan at row 899, column 3"):
        encode_rows(lib, _Q4_K, rows)


def test_no_rows(lib: LibGgml) -> None:
    assert encode_rows(lib, _Q8_0, np.zeros((0, 32), np.float32)).shape == (0, 34)
    assert decode_rows(lib, _Q8_0, np.zeros((0, 34), np.uint8), 32).shape == (0, 32)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_bytes_decode_without_harm(lib: LibGgml, data: st.DataObject) -> None:
    ggml_type = data.draw(st.sampled_from([t for t in GGML_TYPES.values() if lib.can_dequantize(t.type_id)]))
    raw = data.draw(st.binary(min_size=ggml_type.block_bytes, max_size=ggml_type.block_bytes))
    encoded = np.frombuffer(raw, np.uint8).reshape(1, -1)
    assert decode_rows(lib, ggml_type, encoded, ggml_type.block_weights).shape == (1, ggml_type.block_weights)
