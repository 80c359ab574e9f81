"""Verification: no changed bit goes unnoticed, and the part that it lies in is named."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from quant.errors import DamagedFile, FileFormatError, GgufError, JsonFileError
from quant.ggml_types import GGML_TYPES
from quant.gguf_read import read_gguf
from quant.gguf_write import GgufField, GgufTensor, GgufValueType, plan_layout
from quant.verify import digest_path, digest_tensors, layout_digests, read_digests, verify_file, write_digests
from tests.tiny_gguf import I32, U16, TinyGguf, TinyTensor


def _small() -> TinyGguf:
    """Return a file of some 400 bytes with padding behind both tensors."""
    return TinyGguf({}, {"a": TinyTensor((3,)), "blk.0.b": TinyTensor((2, 5))})


@pytest.fixture
def verified(tmp_path: Path) -> Path:
    path = _small().write(tmp_path / "a.gguf")
    write_digests(path, digest_tensors(read_gguf(path)))
    return path


def test_an_undamaged_file(verified: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = verify_file(verified, lambda *call: calls.append(call))
    size = verified.stat().st_size
    assert (report.n_files, report.n_tensors, report.size_bytes) == (1, 2, size)
    assert report.is_complete
    assert calls[-1] == (size, size)
    assert calls == sorted(calls)


def test_every_flipped_bit_is_found_and_named(verified: Path) -> None:
    content = verified.read_bytes()
    gguf = read_gguf(verified)
    places = {"header": range(gguf.data_offset_bytes)}
    for info in gguf.tensors.values():
        places[info.name] = range(info.offset_bytes, info.offset_bytes + info.n_bytes)
    for position in range(len(content)):
        inside = [name for name, place in places.items() if position in place]
        before = [name for name, place in places.items() if place.stop <= position]
        expected = inside[0] if inside else f"padding after {before[-1]}"
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        verified.write_bytes(damaged)
        with pytest.raises(DamagedFile) as caught:
            verify_file(verified)
        assert caught.value.tensors == (expected,)


def test_random_damage_in_a_model(tmp_path: Path) -> None:
    path = TinyGguf.of().write(tmp_path / "a.gguf")
    write_digests(path, digest_tensors(read_gguf(path)))
    content, generator = path.read_bytes(), random.Random(0)
    for _ in range(100):
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(DamagedFile, match="damaged: "):
            verify_file(path)


def test_a_hole_of_zeros_names_each_tensor_it_touches(tmp_path: Path) -> None:
    path = TinyGguf.of().write(tmp_path / "a.gguf")
    write_digests(path, digest_tensors(read_gguf(path)))
    first = read_gguf(path).tensors["blk.0.attn_q.weight"]
    with path.open("r+b") as file:
        file.seek(first.offset_bytes + first.n_bytes - 512)
        file.write(bytes(1024))
    with pytest.raises(DamagedFile) as caught:
        verify_file(path)
    assert caught.value.tensors == ("blk.0.attn_q.weight", "blk.0.attn_k.weight")


@pytest.mark.parametrize("change", [-1, -40, 1])
def test_another_length(change: int, verified: Path) -> None:
    content = verified.read_bytes()
    verified.write_bytes(content[:change] if change < 0 else content + b"\0")
    with pytest.raises(DamagedFile, match=rf"its length \({len(content) + change} instead of {len(content)} bytes\)"):
        verify_file(verified)


def test_without_digests_the_structure_alone(tmp_path: Path) -> None:
    path = _small().write(tmp_path / "a.gguf")
    report = verify_file(path)
    assert not report.is_complete
    assert report.n_files_with_digests == 0
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(GgufError, match="the file at"):
        verify_file(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="No such file"):
        verify_file(tmp_path / "a.gguf")


def test_a_file_that_was_removed_from_beside_its_digests(verified: Path) -> None:
    verified.unlink()
    with pytest.raises(GgufError, match="No such file"):
        verify_file(verified)


def test_a_split_set_has_digests_for_each_file(tmp_path: Path) -> None:
    paths = [tmp_path / f"m-{number + 1:05d}-of-00002.gguf" for number in range(2)]
    for number, path in enumerate(paths):
        pairs = {"split.no": (U16, number), "split.count": (U16, 2), "split.tensors.count": (I32, 2)}
        TinyGguf(pairs, {f"t{number}": TinyTensor((8,))}).write(path)
    assert verify_file(paths[0]).n_files_with_digests == 0
    with pytest.raises(ValueError, match="one of 2 split files"):
        digest_tensors(read_gguf(paths[0]))


def test_digests_of_a_layout_are_those_of_the_file(tmp_path: Path) -> None:
    fields = {"a": GgufField(GgufValueType.UINT32, 1)}
    layout = plan_layout(fields, [GgufTensor("t", (3, 32), GGML_TYPES["Q8_0"])], 4096)
    data = bytes(range(102))
    path = tmp_path / "a.gguf"
    path.write_bytes((layout.header + data).ljust(layout.total_bytes, b"\0"))
    digests = layout_digests(
        layout, hashlib.sha256(layout.header).hexdigest(), {"t": hashlib.sha256(data).hexdigest()}, tool="test 1"
    )
    assert digests == digest_tensors(read_gguf(path), tool="test 1")
    assert write_digests(path, digests) == tmp_path / "a.gguf.digests.json"
    assert read_digests(path) == digests
    assert verify_file(path).is_complete
    assert sorted(child.name for child in tmp_path.iterdir()) == ["a.gguf", "a.gguf.digests.json"]


def test_digests_are_plain_json(verified: Path) -> None:
    document = json.loads(digest_path(verified).read_text())
    info = read_gguf(verified).tensors["a"]
    content = verified.read_bytes()[info.offset_bytes :][: info.n_bytes]
    assert document["tensors"]["a"] == {
        "offset": info.offset_bytes,
        "n_bytes": 12,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    assert (document["algorithm"], document["version"]) == ("sha256", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "not digests of version 1"),
        ({"format": "other"}, "not digests of version 1"),
        ({"file_bytes": "x"}, "missing or of the wrong type"),
        ({"header": None}, "missing or of the wrong type"),
        ({"tensors": []}, "missing or of the wrong type"),
        ({"header": {"n_bytes": -1, "sha256": "0" * 64}}, "missing or of the wrong type"),
        ({"header": {"n_bytes": 1, "sha256": "xyz"}}, "not a length and a SHA-256"),
        ({"header": {"n_bytes": 4096, "sha256": "0" * 64}}, "'a' begins inside 'header'"),
        ({"file_bytes": 10}, "reaches beyond the 10 bytes"),
    ],
)
def test_digests_that_are_none(change: dict, message: str, verified: Path) -> None:
    path = digest_path(verified)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(JsonFileError, match=message):
        verify_file(verified)


def test_a_file_that_shrinks_while_it_is_read(verified: Path) -> None:
    gguf = read_gguf(verified)
    verified.write_bytes(verified.read_bytes()[: gguf.data_offset_bytes + 4])
    with pytest.raises(FileFormatError, match="a: the file became 8 bytes shorter while it was read"):
        digest_tensors(gguf)
