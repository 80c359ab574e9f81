"""GGUF files and split sets that are in order. Those that are not: tests/attacks/test_malformed_gguf.py."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from quant import gguf_cursor, gguf_read
from quant.errors import GgufError
from quant.gguf_read import read_gguf
from quant.gguf_write import GgufValueType
from tests.tiny_gguf import ARRAY, I32, STRING, U16, U32, TinyGguf, TinyTensor, header, padded, pair, tensor_info


def test_a_model(tmp_path: Path) -> None:
    path = TinyGguf.of("qwen3moe").write(tmp_path / "a.gguf")
    gguf = read_gguf(path)
    assert gguf.paths == (path,)
    assert (gguf.version, gguf.alignment, gguf.size_bytes) == (3, 32, path.stat().st_size)
    assert gguf.metadata["general.architecture"] == "qwen3moe"
    assert gguf.metadata["tokenizer.ggml.add_bos_token"] is False
    tokens, types = gguf.metadata["tokenizer.ggml.tokens"], gguf.metadata["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list)
    assert tokens[-1] == "<|im_end|>"
    assert isinstance(types, np.ndarray)
    assert (types.dtype, types.size) == (np.dtype("<i4"), 259)
    assert gguf.value_types["tokenizer.ggml.token_type"] is GgufValueType.INT32
    experts = gguf.tensors["blk.1.ffn_down_exps.weight"]
    assert (experts.dtype, experts.shape, experts.n_bytes) == ("F32", (4, 64, 32), 4 * 64 * 32 * 4)
    assert gguf.tensors["token_embd.weight"].offset_bytes == gguf.data_offset_bytes


def test_version_2_and_other_alignments(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for alignment in (8, 64, 65536):
        infos = [tensor_info("a", (1,), 0, 0), tensor_info("b", (3,), 1, alignment)]
        head = header([pair("general.alignment", U32, alignment)], infos, version=2)
        path.write_bytes(padded(head, alignment) + bytes(alignment + 6))
        gguf = read_gguf(path)
        assert (gguf.version, gguf.alignment, gguf.data_offset_bytes) == (2, alignment, len(padded(head, alignment)))


@pytest.mark.parametrize("n_behind", [0, 1, 28])
def test_padding_behind_the_last_tensor_may_be_there_or_not(n_behind: int, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(padded(header([], [tensor_info("a", (1,), 0, 0)])) + bytes(4 + n_behind))
    assert read_gguf(path).tensors["a"].n_bytes == 4


def test_no_tensors_no_padding(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for content in (header([], []), padded(header([], []))):
        path.write_bytes(content)
        assert not read_gguf(path).tensors


def test_strings_that_are_not_utf_8_keep_their_bytes(tmp_path: Path) -> None:
    raw = [b"\xff\xfe", "é".encode(), b"", b"\xe4\xbd", b"a\0b"]
    path = tmp_path / "a.gguf"
    path.write_bytes(padded(header([pair("a", ARRAY, (STRING, raw)), pair("b", STRING, b"\x80")], [])))
    metadata = read_gguf(path).metadata
    assert [text.encode("utf-8", "surrogateescape") for text in metadata["a"]] == raw  # type: ignore[union-attr]
    assert metadata["b"].encode("utf-8", "surrogateescape") == b"\x80"  # type: ignore[union-attr]


def test_a_header_longer_than_the_first_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = TinyGguf.of().write(tmp_path / "a.gguf")
    expected = read_gguf(path)
    for first_read_bytes in (1, 4, 23, 1000, 5000):
        monkeypatch.setattr(gguf_read, "_FIRST_READ_BYTES", first_read_bytes)
        assert read_gguf(path).tensors == expected.tensors


def test_a_header_longer_than_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = TinyGguf.of().write(tmp_path / "a.gguf")
    for module in (gguf_cursor, gguf_read):
        monkeypatch.setattr(module, "MAX_HEADER_BYTES", 1000)
    monkeypatch.setattr(gguf_read, "_FIRST_READ_BYTES", 100)
    with pytest.raises(GgufError, match="the header is longer than 1,000 bytes"):
        read_gguf(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = padded(header([pair("a", STRING, "xy")], [tensor_info("t", (8,), 0, 0)])) + bytes(range(32))
    path = tmp_path / "a.gguf"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(GgufError):
            read_gguf(path)
    path.write_bytes(content)
    read_gguf(path)


def _shapes_of_235b() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (151936, 4096), "output.weight": (151936, 4096)}
    shapes["output_norm.weight"] = (4096,)
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (4096,), "attn_q": (8192, 4096), "attn_k": (512, 4096), "attn_v": (512, 4096),
        "attn_output": (4096, 8192), "attn_q_norm": (128,), "attn_k_norm": (128,), "ffn_norm": (4096,),
        "ffn_gate_inp": (128, 4096), "ffn_gate_exps": (128, 1536, 4096), "ffn_up_exps": (128, 1536, 4096),
        "ffn_down_exps": (128, 4096, 1536),
    }  # fmt: skip
    return shapes | {f"blk.{n}.{name}.weight": shape for n in range(94) for name, shape in layer.items()}


def test_a_true_235b_header_in_a_sparse_file(tmp_path: Path) -> None:
    """All 1,131 tensors in BF16, 470 GB, of which only the header is written."""
    infos, offset = [], 0
    for name, shape in _shapes_of_235b().items():
        infos.append(tensor_info(name, shape[::-1], 30, offset))
        offset += -(-int(np.prod(shape)) * 2 // 32) * 32
    path = tmp_path / "a.gguf"
    with path.open("wb") as file:
        file.write(padded(header([pair("general.architecture", STRING, "qwen3moe")], infos)))
        try:
            file.truncate(file.tell() + offset)
        except OSError:
            pytest.skip("the file system has no files of 470 GB")
    gguf = read_gguf(path)
    assert len(gguf.tensors) == 1131
    assert sum(info.n_weights for info in gguf.tensors.values()) == 235_093_634_560


def _part(number: int, count: int, n_tensors: int) -> TinyGguf:
    pairs = {"split.no": (U16, number), "split.count": (U16, count), "split.tensors.count": (I32, n_tensors)}
    if number == 0:
        pairs |= {"general.architecture": (STRING, "qwen3"), "a.b": (U32, 7)}
    return TinyGguf(pairs, {f"t{number}": TinyTensor((8,)), f"u{number}": TinyTensor((2, 4))})


def test_a_split_set(tmp_path: Path) -> None:
    paths = [tmp_path / f"m.q4-{number + 1:05d}-of-00003.gguf" for number in range(3)]
    for number, path in enumerate(paths):
        _part(number, 3, 6).write(path)
    gguf = read_gguf(paths[0])
    assert gguf.paths == tuple(paths)
    assert list(gguf.tensors) == ["t0", "u0", "t1", "u1", "t2", "u2"]
    assert [info.path for info in gguf.tensors.values()][::2] == paths
    assert gguf.metadata["a.b"] == 7
    assert gguf.size_bytes == sum(path.stat().st_size for path in paths)
    with pytest.raises(GgufError, match="not the first file") as caught:
        read_gguf(paths[1])
    assert caught.value.hint == "name m.q4-00001-of-00003.gguf instead"


def test_a_damaged_file_of_a_split_set_is_named(tmp_path: Path) -> None:
    paths = [tmp_path / f"m-{number + 1:05d}-of-00002.gguf" for number in range(2)]
    for number, path in enumerate(paths):
        _part(number, 2, 4).write(path)
    paths[1].write_bytes(paths[1].read_bytes()[:-40])
    with pytest.raises(GgufError, match="the file at") as caught:
        read_gguf(paths[0])
    assert caught.value.path == paths[1]


@pytest.mark.parametrize("count", [0, 1])
def test_a_set_of_one_needs_no_name(count: int, tmp_path: Path) -> None:
    """Files that were split and merged again keep the keys, with 0."""
    path = _part(0, count, 2).write(tmp_path / "merged.gguf")
    assert len(read_gguf(path).tensors) == 2


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.gguf")
    with pytest.raises(GgufError, match="not a regular file"):
        read_gguf(tmp_path / "a.gguf")


def test_arrays_of_every_number_type(tmp_path: Path) -> None:
    values = {"u1": (0, [1, 255]), "i2": (3, [-5]), "f8": (12, [0.5, -1e300]), "b1": (7, [1, 0, 1])}
    values["u8"] = (10, [2**64 - 1])
    path = tmp_path / "a.gguf"
    path.write_bytes(padded(header([pair(key, ARRAY, value) for key, value in values.items()], [])))
    metadata = read_gguf(path).metadata
    for key, (_, expected) in values.items():
        array = metadata[key]
        assert isinstance(array, np.ndarray)
        assert (array.dtype.str[1:], array.tolist()) == (key, expected)


def test_numbers_of_every_type(tmp_path: Path) -> None:
    values = [(0, 255), (1, -1), (2, 65535), (3, -2), (4, 2**32 - 1), (5, -3), (6, 0.5), (7, 1)]
    values += [(10, 2**64 - 1), (11, -4), (12, 0.1)]
    path = tmp_path / "a.gguf"
    path.write_bytes(padded(header([pair(str(kind), kind, value) for kind, value in values], [])))
    gguf = read_gguf(path)
    assert [gguf.metadata[str(kind)] for kind, _ in values] == [value for _, value in values]
    assert [int(gguf.value_types[str(kind)]) for kind, _ in values] == [kind for kind, _ in values]
