"""Files of second moments: what is written is what is read, matrix by matrix, and damage has a name."""

from __future__ import annotations

import errno
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from quant.durable_files import DurableFiles
from quant.errors import SafetensorsError
from quant.second_moments import MomentsEntry, read_second_moments, write_second_moments


def _entry(n_matrices: int, n_columns: int, seed: int = 0) -> MomentsEntry:
    random = np.random.default_rng(seed)
    x = random.standard_normal((n_matrices, 7, n_columns)).astype(np.float32)
    return MomentsEntry(np.einsum("mti,mtj->mij", x, x), np.full(n_matrices, 7, np.float32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "h.safetensors"
    entries = {"blk.0.attn_q.weight": _entry(1, 8), "blk.0.ffn_down_exps.weight": _entry(3, 4, 1)}
    write_second_moments(path, entries, {"blk.0.attn_k.weight": "blk.0.attn_q.weight"})
    return path


def test_what_is_written_is_read(path: Path) -> None:
    found = read_second_moments(path)
    assert sorted(found) == ["blk.0.attn_k.weight", "blk.0.attn_q.weight", "blk.0.ffn_down_exps.weight"]
    assert "blk.0.attn_k.weight" in found
    assert "blk.0.attn_q.weight.counts" not in list(found)
    dense = _entry(1, 8).moments[0]
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight"):
        assert (found.n_matrices(name), found.n_columns(name)) == (1, 8)
        np.testing.assert_array_equal(found.moments(name), dense)
        np.testing.assert_array_equal(found.moments(name, 5), dense)  # one input for every expert
    experts = _entry(3, 4, 1)
    for expert in range(3):
        np.testing.assert_array_equal(found.moments("blk.0.ffn_down_exps.weight", expert), experts.moments[expert])
        assert found.count("blk.0.ffn_down_exps.weight", expert) == 7
    with pytest.raises(IndexError):
        found.moments("blk.0.ffn_down_exps.weight", 3)
    with pytest.raises(KeyError):
        found.moments("blk.1.attn_q.weight")


def test_data_is_aligned(path: Path) -> None:
    (header_bytes,) = struct.unpack("<Q", path.read_bytes()[:8])
    assert (8 + header_bytes) % 64 == 0


def test_other_safetensors_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(SafetensorsError, match="no second moments"):
        read_second_moments(path)


def test_a_cut_off_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SafetensorsError, match="its tensors end at byte"):
        read_second_moments(path)


def test_moments_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "h.safetensors"
    write_second_moments(path, {"w": MomentsEntry(np.full((1, 2, 2), np.nan, np.float32), np.ones(1, np.float32))})
    with pytest.raises(SafetensorsError, match="the moments of 'w' are not finite"):
        read_second_moments(path).moments("w")


def test_a_full_disk_leaves_what_was_there(path: Path) -> None:
    before = path.read_bytes()

    class FullDisk(DurableFiles):
        def write_at(self, fd: int, data: memoryview, offset_bytes: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_second_moments(path, {"w": _entry(1, 2)}, files=FullDisk())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("shape", [(2, 2), (1, 2, 3), (0, 2, 2)])
def test_moments_must_be_square(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not go together"):
        MomentsEntry(np.zeros(shape, np.float32), np.zeros(shape[:1], np.float32))
