"""The table of tensor types, against the library and against gguf-py."""

from __future__ import annotations

import gguf
import pytest

from quant.ggml_types import GGML_TYPES, GGML_TYPES_BY_ID
from quant.libggml import LibGgml


def test_every_type_is_the_library_s(lib: LibGgml) -> None:
    for entry in GGML_TYPES.values():
        assert lib.type_facts(entry.type_id) == (entry.name.upper(), entry.block_weights, entry.block_bytes)


def test_no_type_of_the_library_is_left_out(lib: LibGgml) -> None:
    known = {type_id for type_id in range(43) if lib.type_facts(type_id)[2] > 0}
    assert known == set(GGML_TYPES_BY_ID)


def test_sizes_are_gguf_py_s() -> None:
    for kind, sizes in gguf.GGML_QUANT_SIZES.items():
        if kind.name in GGML_TYPES and kind.name != "Q8_1":  # gguf-py has 40 bytes for it, the library 36
            entry = GGML_TYPES[kind.name]
            assert (entry.type_id, entry.block_weights, entry.block_bytes) == (kind.value, *sizes)


def test_rows_and_shapes() -> None:
    q4_k = GGML_TYPES["Q4_K"]
    assert q4_k.row_bytes(512) == 288
    assert q4_k.tensor_bytes((3, 2, 512)) == 6 * 288
    assert q4_k.bits_per_weight == 4.5
    assert GGML_TYPES["F32"].tensor_bytes(()) == 4
    with pytest.raises(ValueError, match="blocks of 256: a row of 100 does not divide"):
        q4_k.row_bytes(100)
