"""Valid safetensors headers are read as they are. Malformed ones: tests/attacks/test_malformed_safetensors.py."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quant.errors import SafetensorsError
from quant.safetensors_read import DTYPE_BITS, MAX_HEADER_BYTES, read_safetensors
from tests.attacks.malformed_safetensors import entry, file_bytes

_WHOLE_BYTE_DTYPES = [dtype for dtype, bits in DTYPE_BITS.items() if bits % 8 == 0]
_TENSORS = st.dictionaries(
    st.text(min_size=1).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(_WHOLE_BYTE_DTYPES), st.lists(st.integers(0, 5), max_size=4)),
    max_size=4,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=_TENSORS,
    metadata=st.none() | st.dictionaries(st.text(), st.text()),
    order=st.randoms(),
    pad=st.integers(0, 9),
)
def test_round_trip(tensors: dict, metadata: dict | None, order: object, pad: int, tmp_path: Path) -> None:
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * DTYPE_BITS[dtype] // 8
        header[name] = entry(dtype, shape, [begin, end])
    names = list(header)
    order.shuffle(names)  # type: ignore[attr-defined]
    document = ({} if metadata is None else {"__metadata__": metadata}) | {name: header[name] for name in names}
    text = json.dumps(document).encode() + b" " * pad
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(text, bytes(end)))

    file = read_safetensors(path)

    assert file.metadata == (metadata or {})
    assert file.size_bytes == path.stat().st_size
    assert file.tensors.keys() == tensors.keys()
    for name, info in file.tensors.items():
        begin, end = header[name]["data_offsets"]
        assert (info.name, info.dtype, info.path) == (name, tensors[name][0], path)
        assert info.shape == tuple(tensors[name][1])
        assert (info.offset_bytes, info.n_bytes) == (8 + len(text) + begin, end - begin)
    offsets = [info.offset_bytes for info in file.tensors.values()]
    assert offsets == sorted(offsets)


def test_sub_byte_types_that_fill_bytes(tmp_path: Path) -> None:
    header = {"a": entry("F4", [2, 3], [0, 3]), "b": entry("F6_E2M3", [4], [3, 6])}
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(json.dumps(header).encode(), bytes(6)))
    assert [info.n_bytes for info in read_safetensors(path).tensors.values()] == [3, 3]


def test_no_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(b"{}"))
    assert read_safetensors(path).tensors == {}


def test_a_link_into_a_cache(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "blobs" / "c0ffee").write_bytes(
        file_bytes(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x")
    )
    link = tmp_path / "snapshots" / "model.safetensors"
    link.symlink_to("../blobs/c0ffee")
    assert read_safetensors(link).tensors["a"].path == link


def test_never_reads_data(tmp_path: Path) -> None:
    """A sparse file of 4 TB: reading any of the data would show."""
    n_bytes = 4 << 40
    header = json.dumps({"a": entry("U8", [n_bytes], [0, n_bytes])}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(header))
    try:
        with path.open("r+b") as file:
            file.truncate(8 + len(header) + n_bytes)
    except OSError:
        pytest.skip("the file system has no files of 4 TB")
    assert read_safetensors(path).tensors["a"].n_bytes == n_bytes


def test_header_of_the_largest_size_is_read_before_it_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(b"", length=MAX_HEADER_BYTES))
    with path.open("r+b") as file:
        file.truncate(8 + MAX_HEADER_BYTES)
    with pytest.raises(SafetensorsError, match=r"header begins with b'\\x00'"):
        read_safetensors(path)


def test_names_of_any_length_make_short_messages(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(file_bytes(json.dumps({"n" * 100_000: entry("F33")}).encode(), bytes(4)))
    with pytest.raises(SafetensorsError, match="unknown dtype") as caught:
        read_safetensors(path)
    assert len(caught.value.detail) < 300
