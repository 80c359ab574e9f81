"""Rows as f32: every bit pattern of the two-byte types, any slice, any buffer, many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from quant import tensor_read
from quant.errors import FileFormatError, UnsupportedTensor
from quant.libggml import LibGgml
from quant.tensor_info import TensorInfo
from quant.tensor_read import TensorReader, read_rows_f32

_DTYPES = {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}


def _write(path: Path, dtype: str, data: np.ndarray, shape: tuple[int, ...], offset: int = 24) -> TensorInfo:
    raw = np.ascontiguousarray(data).tobytes()
    path.write_bytes(b"\xaa" * offset + raw + b"\xbb" * 5)
    return TensorInfo("blk.0.w", dtype, shape, path, offset, len(raw))


def test_every_bf16_and_f16(lib: LibGgml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = np.arange(1 << 16, dtype="<u2")
    expected = np.empty(1 << 16, np.float32)
    for dtype, convert in (("BF16", lib.bf16_to_fp32_row), ("F16", lib.fp16_to_fp32_row)):
        convert(patterns.ctypes.data, expected.ctypes.data, patterns.size)
        info = _write(tmp_path / dtype, dtype, patterns, (256, 256))
        for chunk in (1 << 16, 1000):  # 1000: the last chunk ends inside the array
            monkeypatch.setattr(tensor_read, "_CHUNK_WEIGHTS", chunk)
            rows = read_rows_f32(info)
            assert rows.shape == (256, 256)
            number = ~np.isnan(expected)
            np.testing.assert_array_equal(np.isnan(rows.reshape(-1)), ~number)
            np.testing.assert_array_equal(
                rows.reshape(-1)[number].view(np.uint32), expected[number].view(np.uint32), err_msg=dtype
            )


@pytest.mark.parametrize("dtype", _DTYPES)
def test_slices(dtype: str, tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.float32).reshape(2, 5, 6)
    bits = values.view(np.uint32) >> 16
    stored = bits.astype("<u2") if dtype == "BF16" else values.astype(_DTYPES[dtype])
    info = _write(tmp_path / "t", dtype, stored, (2, 5, 6))
    rows = values.reshape(10, 6)
    with TensorReader() as reader:
        for first in range(11):
            for n_rows in range(11 - first):
                np.testing.assert_array_equal(reader.read_rows_f32(info, first, n_rows), rows[first : first + n_rows])


def test_a_buffer_of_the_caller_is_filled_at_its_front(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32)
    info = _write(tmp_path / "t", "F16", values.astype("<f2"), (3, 4))
    buffer = np.full((5, 4), -1, np.float32)
    with TensorReader() as reader:
        rows = reader.read_rows_f32(info, 1, 2, buffer)
        assert np.shares_memory(rows, buffer)
        np.testing.assert_array_equal(buffer[:2], values.reshape(3, 4)[1:])
        assert (buffer[2:] == -1).all()
        for bad in (buffer[0], buffer.T, buffer.astype(np.float64), np.empty(7, np.float32)):
            with pytest.raises(ValueError, match="the buffer must be contiguous, writeable float32 with at least 8"):
                reader.read_rows_f32(info, 1, 2, bad)
        buffer.flags.writeable = False
        with pytest.raises(ValueError, match="writeable"):
            reader.read_rows_f32(info, 1, 2, buffer)


def test_scalars_and_vectors(tmp_path: Path) -> None:
    info = _write(tmp_path / "t", "F32", np.float32([7]), ())
    assert read_rows_f32(info).tolist() == [[7.0]]
    info = _write(tmp_path / "t", "F32", np.float32([7, 8]), (2,))
    assert read_rows_f32(info).tolist() == [[7.0, 8.0]]


def test_raw_bytes_of_any_type(tmp_path: Path) -> None:
    info = _write(tmp_path / "t", "Q8_0", np.arange(68, dtype=np.uint8), (2, 32))
    out = np.zeros(34, np.uint8)
    with TensorReader() as reader:
        reader.read_bytes(info, 34, out)
        assert out.tolist() == list(range(34, 68))
        with pytest.raises(ValueError, match="has 68 bytes, not 35 to 69"):
            reader.read_bytes(info, 35, out)


@pytest.mark.parametrize(("first", "n_rows"), [(-1, 1), (0, 4), (3, 1), (4, 0), (0, -1)])
def test_rows_that_are_not_there(first: int, n_rows: int, tmp_path: Path) -> None:
    info = _write(tmp_path / "t", "F32", np.zeros(6, np.float32), (3, 2))
    with pytest.raises(ValueError, match=r"blk\.0\.w has 3 rows"), TensorReader() as reader:
        reader.read_rows_f32(info, first, n_rows)


@pytest.mark.parametrize(
    ("dtype", "hint"), [("F64", None), ("I32", "BF16"), ("U8", "BF16"), ("F8_E4M3", "BF16"), ("Q4_K", None)]
)
def test_types_that_are_no_weights(dtype: str, hint: str | None, tmp_path: Path) -> None:
    info = _write(tmp_path / "t", dtype, np.zeros(8, np.uint8), (1, 1))
    with pytest.raises(UnsupportedTensor, match=f"tensor blk.0.w is stored as {dtype}") as caught:
        read_rows_f32(info)
    assert (caught.value.hint is None) == (hint is None)


def test_file_that_became_shorter(tmp_path: Path) -> None:
    info = _write(tmp_path / "t", "F32", np.zeros(100, np.float32), (10, 10))
    with (tmp_path / "t").open("r+b") as file:
        file.truncate(24 + 360)
    with TensorReader() as reader:
        assert reader.read_rows_f32(info, 0, 9).shape == (9, 10)
        with pytest.raises(FileFormatError, match=r"tensor blk\.0\.w: the file ends 40 bytes too early"):
            reader.read_rows_f32(info, 0, 10)


def test_file_that_is_gone(tmp_path: Path) -> None:
    info = TensorInfo("a", "F32", (1,), tmp_path / "gone", 0, 4)
    with pytest.raises(FileFormatError, match="tensor a: No such file"):
        read_rows_f32(info)


def test_many_threads_share_one_reader(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    values = {name: generator.standard_normal((64, 100), dtype=np.float32) for name in "abc"}
    infos = {name: _write(tmp_path / name, "F32", data, (64, 100)) for name, data in values.items()}
    with TensorReader() as reader, ThreadPoolExecutor(8) as pool:
        jobs = [(name, row) for row in range(64) for name in infos]
        found = pool.map(lambda job: reader.read_rows_f32(infos[job[0]], job[1], 1), jobs)
        for (name, row), rows in zip(jobs, found, strict=True):
            np.testing.assert_array_equal(rows[0], values[name][row])
