"""Columns of stored matrices: any range, any panel, many threads, and how often the file is read for it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from quant.column_read import ColumnReader
from quant.errors import FileFormatError
from quant.tensor_info import TensorInfo
from quant.tensor_read import TensorReader

_MATRIX = np.arange(12 * 40, dtype="<i4").reshape(12, 40)


class Counted:
    """Reads from an array; remembers what was read."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.stored = matrix.tobytes()
        self.read: list[tuple[int, int]] = []

    def __call__(self, info: TensorInfo, first_byte: int, out: np.ndarray) -> None:
        self.read.append((first_byte, out.size))
        out[:] = np.frombuffer(self.stored, np.uint8)[first_byte : first_byte + out.size]


def _info(matrix: np.ndarray, dtype: str = "I32", path: Path = Path("x"), offset_bytes: int = 0) -> TensorInfo:
    return TensorInfo("layer.qweight", dtype, matrix.shape, path, offset_bytes, matrix.nbytes)


@pytest.mark.parametrize("panel_bytes", [1, 48 * 7, 48 * 39, 48 * 40, 1 << 20])
def test_any_columns_with_any_panels(panel_bytes: int) -> None:
    reader = ColumnReader(Counted(_MATRIX), panel_bytes)
    for first in range(0, 41, 3):
        for after in range(first + 1, 41):
            found = reader.read(_info(_MATRIX), first, after - first)
            np.testing.assert_array_equal(found, _MATRIX[:, first:after])


@pytest.mark.parametrize(("dtype", "stored"), [("F32", "<f4"), ("F16", "<f2"), ("BF16", "<u2"), ("I32", "<i4")])
def test_types(dtype: str, stored: str, tmp_path: Path) -> None:
    matrix = np.arange(15).astype(stored).reshape(3, 5)
    (tmp_path / "t").write_bytes(b"\xaa" * 24 + matrix.tobytes())
    with TensorReader() as reader:
        found = reader.read_columns(_info(matrix, dtype, tmp_path / "t", 24), 1, 3)
    assert found.dtype == np.dtype(stored)
    np.testing.assert_array_equal(found, matrix[:, 1:4])


def test_a_matrix_is_read_once_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quant.column_read._BLOCK_BYTES", 160 * 5)
    counted = Counted(_MATRIX)
    reader = ColumnReader(counted, panel_bytes=48 * 20)  # two panels
    for first in range(0, 40, 4):
        reader.read(_info(_MATRIX), first, 4)
    assert counted.read == [(0, 800), (800, 800), (1600, 320)] * 2
    whole = Counted(_MATRIX)
    reader = ColumnReader(whole)
    for first in range(0, 40, 4):
        reader.read(_info(_MATRIX), first, 4)
    assert whole.read == [(0, _MATRIX.nbytes)]


def test_what_was_not_used_for_longest_makes_room() -> None:
    counted = Counted(_MATRIX)
    reader = ColumnReader(counted, panel_bytes=48 * 10, kept_bytes=48 * 20)  # four panels, two kept
    for first, n_reads in ((0, 1), (10, 2), (0, 2), (20, 3), (0, 3), (10, 4)):
        reader.read(_info(_MATRIX), first, 10)
        assert len(counted.read) == n_reads


def test_many_threads_read_a_panel_once() -> None:
    matrix = np.arange(200 * 64, dtype="<i4").reshape(200, 64)
    counted = Counted(matrix)
    reader = ColumnReader(counted, panel_bytes=1 << 20)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda first: reader.read(_info(matrix), first, 1), list(range(64)) * 4))
    np.testing.assert_array_equal(np.concatenate(found[:64], axis=1), matrix)
    assert len(counted.read) == 1


def test_a_failed_read_is_tried_again() -> None:
    counted = Counted(_MATRIX)
    fail = [True]

    def read(info: TensorInfo, first_byte: int, out: np.ndarray) -> None:
        if fail:
            raise FileFormatError(info.path, "the file ends too early")
        counted(info, first_byte, out)

    reader = ColumnReader(read)
    with pytest.raises(FileFormatError):
        reader.read(_info(_MATRIX), 0, 1)
    fail.clear()
    assert reader.read(_info(_MATRIX), 1, 1)[0, 0] == 1


@pytest.mark.parametrize(("first", "n_columns"), [(-1, 1), (0, 41), (40, 1), (3, 0), (0, -1)])
def test_columns_that_are_not_there(first: int, n_columns: int) -> None:
    with pytest.raises(ValueError, match="has 40 columns"):
        ColumnReader(Counted(_MATRIX)).read(_info(_MATRIX), first, n_columns)


def test_what_is_no_matrix() -> None:
    reader = ColumnReader(Counted(_MATRIX))
    for info in (
        TensorInfo("a", "I32", (480,), Path("x"), 0, 1920),
        TensorInfo("a", "I64", (12, 20), Path("x"), 0, 1920),
    ):
        with pytest.raises(ValueError, match="cannot be read"):
            reader.read(info, 0, 1)
