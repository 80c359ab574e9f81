"""The GGUF layout: what we write, gguf-py reads, we read, and llama.cpp loads (tests/attacks/test_llama_aborts.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quant.ggml_types import GGML_TYPES
from quant.gguf_read import read_gguf
from quant.gguf_write import GgufField, GgufTensor, GgufValueType, plan_layout

_V = GgufValueType
_RANGES = {
    _V.UINT8: (0, 2**8 - 1), _V.INT8: (-(2**7), 2**7 - 1), _V.UINT16: (0, 2**16 - 1), _V.INT16: (-(2**15), 2**15 - 1),
    _V.UINT32: (0, 2**32 - 1), _V.INT32: (-(2**31), 2**31 - 1),
    _V.UINT64: (0, 2**64 - 1), _V.INT64: (-(2**63), 2**63 - 1),
}  # fmt: skip
_KEYS = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda key: key != "general.alignment" and key.isprintable()
)


def _values(value_type: GgufValueType) -> st.SearchStrategy[Any]:
    if value_type in _RANGES:
        return st.integers(*_RANGES[value_type])
    if value_type is _V.BOOL:
        return st.booleans()
    if value_type is _V.STRING:
        return st.text(max_size=8)
    return st.floats(allow_nan=False, width=32 if value_type is _V.FLOAT32 else 64)


_FIELDS = st.sampled_from([value_type for value_type in _V if value_type is not _V.ARRAY]).flatmap(
    lambda value_type: st.builds(
        GgufField, st.just(value_type), _values(value_type) | st.lists(_values(value_type), max_size=4)
    )
)
_TENSORS = st.dictionaries(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30),
    st.tuples(st.lists(st.integers(1, 3), max_size=3), st.sampled_from(["F32", "F16", "Q8_0", "Q4_K", "MXFP4"])),
    max_size=5,
)


def _tensor(name: str, outer: list[int], type_name: str) -> GgufTensor:
    return GgufTensor(name, (*outer, 256), GGML_TYPES[type_name])


def test_large_whole_numbers_stay_whole(tmp_path: Path) -> None:
    """numpy makes floats of a small and a very large one together."""
    fields = {"a": GgufField(_V.UINT64, [0, 2**63]), "b": GgufField(_V.UINT64, (2**64 - 1, 1))}
    path = tmp_path / "large.gguf"
    path.write_bytes(plan_layout(fields, [], 32).header)
    assert [list(read_gguf(path).metadata[key]) for key in "ab"] == [[0, 2**63], [2**64 - 1, 1]]
    with pytest.raises(ValueError, match="-1 is not a UINT64"):
        GgufField(_V.UINT64, [-1, 2**63])


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metadata=st.dictionaries(_KEYS, _FIELDS, max_size=5),
    tensors=_TENSORS,
    alignment=st.sampled_from([8, 32, 64, 4096]),
)
def test_round_trip(metadata: dict[str, GgufField], tensors: dict, alignment: int, tmp_path: Path) -> None:
    layout = plan_layout(metadata, [_tensor(name, *rest) for name, rest in tensors.items()], alignment)
    path = tmp_path / "a.gguf"
    path.write_bytes(layout.header.ljust(layout.total_bytes, b"\0"))

    read = read_gguf(path)

    assert (read.alignment, read.size_bytes, read.version) == (alignment, layout.total_bytes, 3)
    assert read.data_offset_bytes == len(layout.header)
    assert list(read.tensors) == [placed.name for placed in layout.placed]
    for placed in layout.placed:
        info = read.tensors[placed.name]
        assert (info.dtype, info.shape, info.path) == (placed.type.name, placed.shape, path)
        assert (info.offset_bytes, info.n_bytes) == (placed.offset_bytes, placed.n_bytes)
        assert placed.offset_bytes % alignment == 0
    for key, field in metadata.items():
        assert read.value_types[key] is field.type
        found = read.metadata[key]
        found = found.tolist() if isinstance(found, np.ndarray) else found
        expected = np.float32(field.value).tolist() if field.type is _V.FLOAT32 else field.value
        assert found == expected


def _example() -> dict[str, GgufField]:
    return {
        "general.architecture": GgufField(_V.STRING, "qwen3moe"),
        "a.u8": GgufField(_V.UINT8, 255),
        "a.i64": GgufField(_V.INT64, -(2**63)),
        "a.f32": GgufField(_V.FLOAT32, 1e-6),
        "a.f64": GgufField(_V.FLOAT64, 1e-300),
        "a.flag": GgufField(_V.BOOL, True),
        "a.flags": GgufField(_V.BOOL, [True, False]),
        "a.names": GgufField(_V.STRING, ["Ġa", "", "日本"]),
        "a.types": GgufField(_V.INT32, np.arange(3, dtype=np.int64)),
        "a.none": GgufField(_V.UINT32, []),
    }


def test_gguf_py_reads_it(tmp_path: Path) -> None:
    tensors = [_tensor("x", [3], "Q4_K"), _tensor("y", [2, 2], "Q8_0"), _tensor("z", [], "F32")]
    layout = plan_layout(_example(), tensors, 4096)
    path = tmp_path / "a.gguf"
    path.write_bytes(layout.header.ljust(layout.total_bytes, b"\0"))
    reader = gguf.GGUFReader(path)
    assert {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")} == {
        "general.architecture": "qwen3moe",
        "a.u8": 255,
        "a.i64": -(2**63),
        "a.f32": float(np.float32(1e-6)),
        "a.f64": 1e-300,
        "a.flag": True,
        "a.flags": [True, False],
        "a.names": ["Ġa", "", "日本"],
        "a.types": [0, 1, 2],
        "a.none": [],
        "general.alignment": 4096,
    }
    for theirs, ours in zip(reader.tensors, layout.placed, strict=True):
        assert (theirs.name, theirs.tensor_type.name, theirs.data_offset, theirs.n_bytes) == (
            ours.name, ours.type.name, ours.offset_bytes, ours.n_bytes,
        )  # fmt: skip
        assert tuple(theirs.shape.tolist())[::-1] == ours.shape


def test_what_gguf_py_writes_we_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("a.names", ["x", "ÿ"])
    writer.add_float32("a.f", 0.5)
    writer.add_bool("a.b", False)
    data = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer.add_tensor("t", data)
    writer.add_tensor("u", data.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = read_gguf(path)
    assert read.metadata == {"general.architecture": "llama", "a.names": ["x", "ÿ"], "a.f": 0.5, "a.b": False}
    assert [(info.name, info.dtype, info.shape) for info in read.tensors.values()] == [
        ("t", "F32", (3, 4)),
        ("u", "F16", (3, 4)),
    ]
    start = read.tensors["t"].offset_bytes
    assert path.read_bytes()[start : start + 48] == data.tobytes()


def test_header_alone_where_there_are_no_tensors() -> None:
    layout = plan_layout(_example(), [])
    assert layout.total_bytes == len(layout.header)
    assert layout.total_bytes % 32 == 0


def test_same_arguments_same_bytes() -> None:
    tensors = [_tensor("x", [3], "Q4_K")]
    assert plan_layout(_example(), tensors, 64) == plan_layout(_example(), tensors, 64)


@pytest.mark.parametrize("alignment", [0, 4, 33, 131072, -32])
def test_alignments_that_cannot_be(alignment: int) -> None:
    with pytest.raises(ValueError, match="not a power of two from 8 to 65536"):
        plan_layout({}, [], alignment)


def test_alignment_that_contradicts_the_metadata() -> None:
    metadata = {"general.alignment": GgufField(_V.UINT32, 64)}
    assert plan_layout(metadata, [], 64).alignment == 64
    with pytest.raises(ValueError, match=r"general\.alignment must be the UINT32 32, not UINT32 64"):
        plan_layout(metadata, [])


@pytest.mark.parametrize(
    ("value_type", "value", "message"),
    [
        (_V.UINT8, 256, "256 does not fit UINT8"),
        (_V.INT8, -129, "-129 does not fit INT8"),
        (_V.UINT32, [1, -1], "-1 does not fit UINT32"),
        (_V.UINT64, 2**64, "is not a UINT64"),
        (_V.UINT32, 1.0, "is not a UINT32"),
        (_V.UINT32, True, "is not a UINT32"),
        (_V.UINT32, "1", "is not a UINT32"),
        (_V.BOOL, 1, "is not a BOOL"),
        (_V.FLOAT32, "x", "is not a FLOAT32"),
        (_V.FLOAT32, 1e300, "too large for FLOAT32"),
        (_V.STRING, 1, "1 is not a string"),
        (_V.STRING, ["a", b"b"], "b'b' is not a string"),
        (_V.STRING, "\ud800", "surrogates not allowed"),
        (_V.UINT32, [[1]], "an array of 2 dimensions"),
        (_V.ARRAY, [1], "the type of a field is that of its elements"),
    ],
)
def test_values_that_do_not_fit_their_type(value_type: GgufValueType, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GgufField(value_type, value)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("", (256,), "1 to 63 bytes"),
        ("é" * 32, (256,), "1 to 63 bytes"),
        ("a\n", (256,), "1 to 63 bytes, all printable"),
        ("a", (), "1 to 4 dimensions"),
        ("a", (1, 1, 1, 1, 256), "1 to 4 dimensions"),
        ("a", (0, 256), "dimensions above 0"),
        ("a", (2, 100), "rows of 100 are not whole Q4_K blocks of 256"),
    ],
)
def test_tensors_that_cannot_be(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GgufTensor(name, shape, GGML_TYPES["Q4_K"])


@pytest.mark.parametrize("key", ["", "a\0b", "a\n"])
def test_keys_that_cannot_be(key: str) -> None:
    with pytest.raises(ValueError, match="is not a key"):
        plan_layout({key: GgufField(_V.UINT8, 0)}, [])


def test_two_tensors_of_one_name() -> None:
    with pytest.raises(ValueError, match="two tensors have the same name"):
        plan_layout({}, [_tensor("x", [], "F32"), _tensor("x", [], "F16")])
