"""Files of importance matrices: ours, those laid out as llama.cpp does, its older ones, and damaged ones."""

from __future__ import annotations

import errno
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from quant.durable_files import DurableFiles
from quant.errors import GgufError
from quant.imatrix import Imatrix, ImatrixEntry
from quant.imatrix_file import read_imatrix, write_imatrix
from tests.tiny_gguf import TinyGguf

RANDOM = np.random.default_rng(0)
SUMS = RANDOM.random((1, 32), np.float32)
EXPERT_SUMS = RANDOM.random((4, 32), np.float32)
EXPERT_COUNTS = np.array([5, 0, 3, 2], np.float32)


def an_imatrix() -> Imatrix:
    return Imatrix(
        {
            "blk.0.ffn_up_exps.weight": ImatrixEntry(EXPERT_SUMS, EXPERT_COUNTS),
            "blk.0.attn_q.weight": ImatrixEntry(SUMS, np.array([10], np.float32)),
        },
        ("wiki.txt", "gespräch.jsonl"),
        7,
        512,
    )


def as_llama_cpp_does(path: Path, *, one_count: bool = False, **changed: Any) -> Path:
    """Write a file with gguf-py, tensors and keys as save_imatrix in llama.cpp's tools/imatrix/imatrix.cpp has them."""
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()  # general.architecture: llama-imatrix has none
    writer.add_type(changed.get("type", "imatrix"))
    writer.add_array("imatrix.datasets", ["wiki.txt"])
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_uint32("imatrix.chunk_size", 512)
    tensors = {
        "blk.0.attn_q.weight.in_sum2": SUMS,
        "blk.0.attn_q.weight.counts": np.array([[10]], np.float32),
        "blk.0.ffn_up_exps.weight.in_sum2": EXPERT_SUMS,
        "blk.0.ffn_up_exps.weight.counts": np.array([[4]], np.float32) if one_count else EXPERT_COUNTS.reshape(-1, 1),
    } | changed.get("tensors", {})
    for name, array in tensors.items():
        if array is not None:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def assert_same(found: Imatrix, expected: Imatrix) -> None:
    assert found.entries.keys() == expected.entries.keys()
    for name, entry in expected.entries.items():
        np.testing.assert_array_equal(found.entries[name].sums, entry.sums)
        np.testing.assert_array_equal(found.entries[name].counts, entry.counts)
    assert (found.datasets, found.n_chunks, found.chunk_tokens) == (
        expected.datasets,
        expected.n_chunks,
        expected.chunk_tokens,
    )


def test_what_is_written_is_read_and_the_same_contents_are_the_same_bytes(tmp_path: Path) -> None:
    write_imatrix(an_imatrix(), tmp_path / "a.gguf")
    found = read_imatrix(tmp_path / "a.gguf")
    assert_same(found, an_imatrix())
    assert found.digest == an_imatrix().digest
    write_imatrix(found, tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "b.gguf"]


def test_gguf_py_reads_what_we_write(tmp_path: Path) -> None:
    write_imatrix(an_imatrix(), tmp_path / "a.gguf")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors["blk.0.ffn_up_exps.weight.in_sum2"].shape.tolist() == [32, 4]
    assert tensors["blk.0.ffn_up_exps.weight.counts"].shape.tolist() == [1, 4]
    np.testing.assert_array_equal(tensors["blk.0.ffn_up_exps.weight.in_sum2"].data, EXPERT_SUMS)
    assert reader.fields["imatrix.chunk_count"].contents() == 7
    assert reader.fields["imatrix.datasets"].contents() == ["wiki.txt", "gespräch.jsonl"]
    assert reader.fields["general.type"].contents() == "imatrix"


def test_a_file_of_llama_cpp_is_read(tmp_path: Path) -> None:
    found = read_imatrix(as_llama_cpp_does(tmp_path / "a.gguf"))
    expected = an_imatrix()
    assert_same(found, Imatrix(expected.entries, ("wiki.txt",), 7, 512))


def test_one_count_stands_for_all_experts(tmp_path: Path) -> None:
    found = read_imatrix(as_llama_cpp_does(tmp_path / "a.gguf", one_count=True))
    np.testing.assert_array_equal(found.entries["blk.0.ffn_up_exps.weight"].counts, [4, 4, 4, 4])


def test_an_older_file_is_read(tmp_path: Path) -> None:
    """Means times calls, as save_imatrix_legacy writes them; the number of experts is not in the file."""
    path = tmp_path / "old.dat"
    data = struct.pack("<i", 2)
    for name, values, n_calls in (("blk.0.attn_q.weight", SUMS, 3), ("blk.0.ffn_up_exps.weight", EXPERT_SUMS, 2)):
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", n_calls, values.size)
        data += (values * n_calls).astype("<f4").tobytes()
    for tail, n_chunks, datasets in ((b"", 0, ()), (struct.pack("<ii", 9, 5) + b"a.txt", 9, ("a.txt",))):
        path.write_bytes(data + tail)
        found = read_imatrix(path)
        np.testing.assert_allclose(found.entries["blk.0.attn_q.weight"].mean_squares(), SUMS[0], rtol=1e-6)
        experts = found.entries["blk.0.ffn_up_exps.weight"]
        assert (experts.n_matrices, experts.n_columns) == (1, 128)
        assert (found.n_chunks, found.datasets, found.chunk_tokens) == (n_chunks, datasets, 0)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_imatrix(an_imatrix(), path)
    whole = path.read_bytes()
    name = b"blk.0.a.weight"
    old = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii4f", 1, 4, 1, 2, 3, 4)
    for content, n_padding in ((whole, 28), (old, 0)):
        for length in [*range(0, len(content) - n_padding, 7), len(content) - n_padding - 1]:
            path.write_bytes(content[:length])
            with pytest.raises(GgufError):
                read_imatrix(path)
    path.write_bytes(old)
    assert len(read_imatrix(path).entries) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"type": "model"}, "general.type is 'model'"),
        ({"tensors": {"blk.0.attn_q.weight.counts": None}}, "'blk.0.attn_q.weight' has sums without counts"),
        ({"tensors": {"blk.0.attn_q.weight.in_sum2": SUMS.astype(np.float64)}}, "'blk.0.attn_q.weight' are not F32"),
        ({"tensors": {"blk.0.attn_q.weight.in_sum2": SUMS * np.nan}}, "'blk.0.attn_q.weight': a sum is not finite"),
        ({"tensors": {"blk.0.attn_q.weight.in_sum2": -SUMS}}, "'blk.0.attn_q.weight': a sum is negative"),
        (
            {"tensors": {"blk.0.ffn_up_exps.weight.counts": np.ones((3, 1), np.float32)}},
            r"'blk.0.ffn_up_exps.weight': sums of shape \(4, 32\) and counts of shape \(3,\)",
        ),
    ],
)
def test_damage_is_refused_by_name(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(GgufError, match=message):
        read_imatrix(as_llama_cpp_does(tmp_path / "a.gguf", **changed))


def test_a_model_is_no_importance_matrix(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match=r"not an importance matrix: general\.type is None") as caught:
        read_imatrix(TinyGguf.of().write(tmp_path / "model.gguf"))
    assert caught.value.hint is not None


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n" * 9, bytes(64), b"\xff" * 64])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(GgufError):
        read_imatrix(path)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(GgufError):
            read_imatrix(path)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    class FullDisk(DurableFiles):
        def write_at(self, fd: int, data: memoryview, offset_bytes: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.gguf"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="No space"):
        write_imatrix(an_imatrix(), path, FullDisk())
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
