"""The compiled encoders: blocks that every decoder reads alike, errors no larger than ggml's, and no bad input."""

from __future__ import annotations

from pathlib import Path

import gguf
import gguf.quants
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quant.checkpoint import open_checkpoint
from quant.codecs import native
from quant.codecs.fast import FAST_TYPES, ISA_NAMES, FastEncoders, load_fast_encoders
from quant.codecs.native import BadRowsError, decode_rows
from quant.codecs.row_encoder import RowEncoder, importance_of, make_row_encoder
from quant.ggml_types import GGML_TYPES, GgmlType
from quant.libggml import LibGgml, load_libggml
from quant.tensor_read import read_rows_f32

Rows = np.ndarray

_WHOLE_SCALE = {"Q8_0"}  # whose error is that of rounding alone: a long search finds nothing


def _fast(isa: str | None = None) -> FastEncoders:
    found = load_fast_encoders(isa)
    assert found is not None, "the encoders were not compiled: `make setup` does it"
    return found


_LIB = load_libggml()  # hypothesis takes no fixtures
_ISAS = ISA_NAMES[: ISA_NAMES.index(_fast().isa) + 1]


def _normal(n_rows: int, n_columns: int) -> Rows:
    return np.random.default_rng(3).standard_normal((n_rows, n_columns), dtype=np.float32) * np.float32(0.02)


def _heavy(n_rows: int, n_columns: int) -> Rows:
    return (np.random.default_rng(4).standard_t(4, (n_rows, n_columns)) * 0.02).astype(np.float32)


def _trained(n_rows: int, n_columns: int) -> Rows:
    folder = Path(__file__).parents[2] / "qwenctl" / "demo"
    tensors = open_checkpoint(folder).tensors
    rows = read_rows_f32(tensors["model.layers.1.mlp.experts.3.up_proj.weight"])
    return np.ascontiguousarray(np.resize(rows, (n_rows, n_columns)))


_WEIGHTS = {"normal": _normal, "heavy": _heavy, "trained": _trained}


def _importance(n_columns: int) -> Rows:
    return np.exp(np.random.default_rng(5).standard_normal(n_columns)).astype(np.float32)


def _error(lib: LibGgml, ggml_type: GgmlType, rows: Rows, encoded: Rows, importance: Rows | None) -> float:
    difference = decode_rows(lib, ggml_type, encoded, rows.shape[1]).astype(np.float64) - rows
    return float((difference**2 * (1.0 if importance is None else importance)).sum())


@pytest.mark.parametrize("isa", _ISAS)
@pytest.mark.parametrize("ggml_type", FAST_TYPES, ids=lambda entry: entry.name)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("kind", _WEIGHTS)
def test_error_is_below_ggml_s(lib: LibGgml, isa: str, ggml_type: GgmlType, weighted: bool, kind: str) -> None:
    rows = _WEIGHTS[kind](48, 1024)
    importance = _importance(1024) if weighted else None
    theirs = _error(lib, ggml_type, rows, native.encode_rows(lib, ggml_type, rows, importance), importance)
    errors = [
        _error(lib, ggml_type, rows, RowEncoder(lib, _fast(isa), best).encode(ggml_type, rows, importance), importance)
        for best in (False, True)
    ]
    assert errors[0] <= theirs
    assert errors[1] <= errors[0] * (1 + 1e-9)
    assert errors[1] <= 0.97 * theirs or ggml_type.name in _WHOLE_SCALE


@pytest.mark.parametrize("ggml_type", FAST_TYPES, ids=lambda entry: entry.name)
def test_decoding_is_gguf_py_s(lib: LibGgml, ggml_type: GgmlType) -> None:
    rows = np.concatenate([_heavy(21, 512), np.zeros((1, 512), np.float32)])
    encoded = make_row_encoder(lib).encode(ggml_type, rows, _importance(512))
    theirs = gguf.quants.dequantize(encoded, gguf.GGMLQuantizationType[ggml_type.name])
    np.testing.assert_allclose(decode_rows(lib, ggml_type, encoded, 512), theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("isa", _ISAS)
@pytest.mark.parametrize("ggml_type", FAST_TYPES, ids=lambda entry: entry.name)
def test_each_row_is_encoded_alone(lib: LibGgml, isa: str, ggml_type: GgmlType) -> None:
    """Whatever rows are beside it, and however many: slices may be cut anywhere."""
    rows = _heavy(37, 256)
    encoder = RowEncoder(lib, _fast(isa))
    together = encoder.encode(ggml_type, rows)
    for n_rows in (1, 5, 16, 17):
        for first in range(0, 37, n_rows):
            part = np.ascontiguousarray(rows[first : first + n_rows])
            np.testing.assert_array_equal(encoder.encode(ggml_type, part), together[first : first + n_rows])


@pytest.mark.parametrize("isa", _ISAS)
def test_instruction_sets_agree(lib: LibGgml, isa: str) -> None:
    """But for ties and last bits: the errors are the same to a thousandth."""
    rows = _heavy(64, 512)
    for ggml_type in FAST_TYPES:
        errors = [
            _error(lib, ggml_type, rows, RowEncoder(lib, _fast(name)).encode(ggml_type, rows), None)
            for name in (isa, "baseline")
        ]
        assert errors[0] == pytest.approx(errors[1], rel=1e-3), ggml_type.name


@settings(deadline=None, max_examples=150)
@given(
    rows=hnp.arrays(np.float32, (3, 256), elements=st.floats(-65504.0, 65504.0, width=32)),
    weights=hnp.arrays(np.float32, 256, elements=st.floats(0.0, 2.0**100, width=32)),
    ggml_type=st.sampled_from(FAST_TYPES),
    isa=st.sampled_from(_ISAS),
    best=st.booleans(),
)
def test_any_finite_weights(rows: Rows, weights: Rows, ggml_type: GgmlType, isa: str, best: bool) -> None:
    """Nothing decodes to NaN or infinity, and no weight comes back further off than the largest one is large."""
    for importance in (None, weights):
        encoded = RowEncoder(_LIB, _fast(isa), best).encode(ggml_type, rows, importance)
        decoded = decode_rows(_LIB, ggml_type, encoded, 256)
        assert np.isfinite(decoded).all()
        assert np.abs(decoded - rows).max() <= np.abs(rows).max() * 1.01


def test_whole_numbers_survive(lib: LibGgml) -> None:
    """Weights that lie on a type's grid come back exactly."""
    codes = np.random.default_rng(0).integers(0, 16, (16, 256))
    codes[:, ::32], codes[:, 1::32] = 0, 15
    rows = (codes * 0.25 - 1.75).astype(np.float32)
    for name in ("Q4_K", "Q5_K"):
        encoded = make_row_encoder(lib, "best").encode(GGML_TYPES[name], rows)
        np.testing.assert_allclose(decode_rows(lib, GGML_TYPES[name], encoded, 256), rows, atol=1e-3)
    whole = np.random.default_rng(0).integers(-127, 128, (16, 256)).astype(np.float32)
    whole[:, ::32] = 127
    encoded = make_row_encoder(lib).encode(GGML_TYPES["Q8_0"], whole)
    np.testing.assert_array_equal(decode_rows(lib, GGML_TYPES["Q8_0"], encoded, 256), whole)


@pytest.mark.parametrize("isa", _ISAS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 7e4])
@pytest.mark.parametrize("place", [(0, 0), (18, 255), (31, 100)])
def test_what_cannot_be_stored(lib: LibGgml, isa: str, bad: float, place: tuple[int, int]) -> None:
    rows = _normal(32, 256)
    rows[place] = bad
    for ggml_type in FAST_TYPES:
        with pytest.raises(BadRowsError, match=f"row {place[0]}, column {place[1]} "):
            RowEncoder(lib, _fast(isa)).encode(ggml_type, rows)


def test_importance_is_scaled() -> None:
    imatrix = np.array([0.0, 2.0, 4.0, 6.0], np.float32)
    importance = importance_of(imatrix, 4)
    assert importance is not None
    np.testing.assert_allclose(importance, [1e-4, 2 / 3, 4 / 3, 2.0])
    assert importance_of(np.zeros(4, np.float32), 4) is None
    with pytest.raises(ValueError, match="negative"):
        importance_of(-imatrix, 4)
    with pytest.raises(ValueError, match="3 columns"):
        importance_of(imatrix[:3], 4)


def test_weights_of_important_columns_are_kept_better(lib: LibGgml) -> None:
    rows = _heavy(64, 256)
    importance = np.ones(256, np.float32)
    importance[::4] = 100.0
    for ggml_type in FAST_TYPES:
        if ggml_type.name == "Q8_0":
            continue
        plain, weighted = (
            (decode_rows(lib, ggml_type, make_row_encoder(lib).encode(ggml_type, rows, one), 256) - rows)[:, ::4]
            for one in (None, importance)
        )
        assert (weighted**2).sum() < 0.97 * (plain**2).sum(), ggml_type.name


def test_other_types_are_ggml_s(lib: LibGgml) -> None:
    rows = _normal(3, 256)
    encoder = make_row_encoder(lib)
    np.testing.assert_array_equal(
        encoder.encode(GGML_TYPES["Q5_0"], rows), native.encode_rows(lib, GGML_TYPES["Q5_0"], rows)
    )
    exact = make_row_encoder(lib, "exact")
    np.testing.assert_array_equal(
        exact.encode(GGML_TYPES["Q4_K"], rows), native.encode_rows(lib, GGML_TYPES["Q4_K"], rows)
    )
    assert encoder.identity != exact.identity != make_row_encoder(lib, "best").identity


def test_arguments_are_checked(lib: LibGgml) -> None:
    encoder = make_row_encoder(lib)
    q4_k = GGML_TYPES["Q4_K"]
    with pytest.raises(ValueError, match="does not divide"):
        encoder.encode(q4_k, _normal(2, 128))
    with pytest.raises(ValueError, match="contiguous"):
        encoder.encode(q4_k, _normal(2, 512)[:, ::2])
    with pytest.raises(ValueError, match="288 bytes, not 10"):
        encoder.encode(q4_k, _normal(2, 256), out=np.empty(10, np.uint8))
    with pytest.raises(ValueError, match="no quality"):
        make_row_encoder(lib, "better")
    assert encoder.encode(q4_k, np.empty((0, 256), np.float32)).shape == (0, 144)
