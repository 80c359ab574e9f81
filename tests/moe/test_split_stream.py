"""Split sets as one stream: the bytes that llama.cpp gets to see."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from quant.gguf_read import GgufFile, read_gguf
from qwenctl.moe.expert_map import ExpertMap, read_expert_map
from qwenctl.moe.model_stream import Piece
from qwenctl.moe.split_stream import stream_pieces
from tests.moe.split_gguf import split_gguf
from tests.tiny_gguf import U32, TinyGguf, TinyTensor

_SKIPPED = 0xA5  # what a test's stream has where experts are skipped


def _model(alignment: int = 32) -> TinyGguf:
    """A tiny MoE with a tensor whose size is no multiple of the alignment."""
    tiny = TinyGguf.of("qwen3moe")
    tiny.alignment = alignment
    if alignment != 32:
        tiny.pairs["general.alignment"] = (U32, alignment)
    tiny.tensors = {"rope_freqs.weight": TinyTensor((13,)), **tiny.tensors}
    return tiny


def _opened(path: Path) -> tuple[GgufFile, ExpertMap]:
    gguf = read_gguf(path)
    experts = read_expert_map(gguf)
    assert experts is not None
    return gguf, experts


def _played(pieces: Sequence[Piece], paths: Sequence[Path]) -> bytes:
    """Return the bytes of a stream."""
    files = [path.read_bytes() for path in paths]
    parts = []
    for piece in pieces:
        if piece.given is not None:
            part = piece.given
        elif piece.file >= 0:
            part = files[piece.file][piece.offset_bytes : piece.offset_bytes + piece.n_bytes]
        else:
            part = bytes([_SKIPPED]) * piece.n_bytes
        assert len(part) == piece.n_bytes
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("alignment", [32, 128])
@pytest.mark.parametrize("cuts", [(7,), (12, 13), (0, 5), (1, 20, 24)])
def test_the_stream_of_a_split_set_is_a_file_with_every_tensor(
    tmp_path: Path, cuts: tuple[int, ...], alignment: int
) -> None:
    whole = _model(alignment).write(tmp_path / "model.gguf")
    gguf, experts = _opened(split_gguf(whole, tmp_path, cuts))
    assert len(gguf.paths) == len(cuts) + 1
    (tmp_path / "stream.gguf").write_bytes(_played(stream_pieces(gguf, experts), gguf.paths))
    streamed, original = read_gguf(tmp_path / "stream.gguf"), read_gguf(whole)
    assert dict(streamed.metadata).keys() == dict(original.metadata).keys()
    assert list(streamed.tensors) == list(original.tensors)
    skipped = {tensor.name for layer in experts.layers for tensor in layer.tensors}
    assert len(skipped) == 6
    assert streamed.size_bytes == original.size_bytes
    for name, info in streamed.tensors.items():
        theirs = original.tensors[name]
        assert (info.shape, info.dtype, info.offset_bytes % alignment) == (theirs.shape, theirs.dtype, 0)
        found, expected = (_bytes(one.path, one.offset_bytes, one.n_bytes) for one in (info, theirs))
        assert found == (bytes([_SKIPPED]) * len(expected) if name in skipped else expected)


def _bytes(path: Path, offset: int, n_bytes: int) -> bytes:
    return path.read_bytes()[offset : offset + n_bytes]


def test_a_split_set_and_its_file_differ_in_nothing_but_what_is_read(tmp_path: Path) -> None:
    """The merged header of a set is the header of the file that it was cut from, so the streams are equal."""
    whole = _model().write(tmp_path / "model.gguf")
    streams = []
    for first in (whole, split_gguf(whole, tmp_path, (9, 17))):
        gguf, experts = _opened(first)
        streams.append(_played(stream_pieces(gguf, experts), gguf.paths))
    assert streams[0] == streams[1]


def test_the_stream_of_one_file_is_the_file(tmp_path: Path) -> None:
    gguf, experts = _opened(_model().write(tmp_path / "model.gguf"))
    pieces = stream_pieces(gguf, experts)
    stored = (tmp_path / "model.gguf").read_bytes()
    streamed = _played(pieces, gguf.paths)
    assert len(streamed) == len(stored)
    assert sum(piece.n_bytes for piece in pieces if piece.file < 0) == experts.expert_bytes
    differing = np.flatnonzero(np.frombuffer(stored, np.uint8) != np.frombuffer(streamed, np.uint8))
    ranges = [
        range(tensor.offset_bytes, tensor.offset_bytes + tensor.expert_bytes * tensor.n_experts)
        for layer in experts.layers
        for tensor in layer.tensors
    ]
    assert differing.size
    assert all(any(place in one for one in ranges) for place in differing[:: max(1, differing.size // 50)].tolist())


def test_pieces_of_files_never_hold_experts(tmp_path: Path) -> None:
    """A stream may read dense tensors only: what comes from files and what is skipped do not overlap."""
    gguf, experts = _opened(split_gguf(_model().write(tmp_path / "model.gguf"), tmp_path, (9, 17)))
    read = [(one.file, one.offset_bytes, one.offset_bytes + one.n_bytes) for one in stream_pieces(gguf, experts)]
    mapped = [
        (tensor.file, tensor.offset_bytes, tensor.offset_bytes + tensor.expert_bytes * tensor.n_experts)
        for layer in experts.layers
        for tensor in layer.tensors
    ]
    stretches = sorted([*(one for one in read if one[0] >= 0), *mapped])
    assert all(first[0] != second[0] or first[2] <= second[1] for first, second in pairwise(stretches))
