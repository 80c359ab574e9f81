"""The model's file as a C stream: what is read, what is skipped, and how C learns of failures."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from qwenctl.errors import ModelLoadFailed
from qwenctl.moe.model_stream import ModelStream, Piece, can_stream

pytestmark = pytest.mark.skipif(not can_stream(), reason="no fopencookie here")
DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.fread.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p]
    library.fread.restype = ctypes.c_size_t
    library.fseek.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_int]
    library.ftell.argtypes, library.ftell.restype = [ctypes.c_void_p], ctypes.c_long
    library.ferror.argtypes = [ctypes.c_void_p]
    return library


def _read(libc: ctypes.CDLL, stream: ModelStream, n_bytes: int) -> bytes:
    buffer = ctypes.create_string_buffer(n_bytes)
    n_read = libc.fread(buffer, 1, n_bytes, stream.handle)
    return buffer.raw[:n_read]


def test_pieces_follow_each_other(libc: ctypes.CDLL, path: Path) -> None:
    pieces = [Piece(3, given=b"abc"), Piece(0), Piece(5, 0, 10), Piece(2, given=b"xy")]
    with ModelStream([path], pieces) as stream:
        assert stream.n_bytes == 10
        assert _read(libc, stream, 100) == b"abc" + DATA[10:15] + b"xy"
        assert (stream.bytes_read, stream.error) == (5, None)


def test_what_is_skipped_is_not_read(libc: ctypes.CDLL, path: Path) -> None:
    pieces = [Piece(100, 0, 0), Piece(len(DATA) - 200), Piece(100, 0, len(DATA) - 100)]
    with ModelStream([path], pieces) as stream:
        assert stream.n_bytes == len(DATA)
        assert libc.fseek(stream.handle, len(DATA) - 100, os.SEEK_SET) == 0
        assert _read(libc, stream, 200) == DATA[-100:]
        assert libc.fseek(stream.handle, 0, os.SEEK_SET) == 0
        whole = _read(libc, stream, len(DATA))
        assert len(whole) == len(DATA)
        assert (whole[:100], whole[-100:]) == (DATA[:100], DATA[-100:])
        assert stream.bytes_read == 300


def test_seeking(libc: ctypes.CDLL, path: Path) -> None:
    with ModelStream([path], [Piece(len(DATA), 0, 0)]) as stream:
        assert libc.fseek(stream.handle, 0, os.SEEK_END) == 0
        assert libc.ftell(stream.handle) == len(DATA)
        assert libc.fseek(stream.handle, -5, os.SEEK_CUR) == 0
        assert _read(libc, stream, 10) == DATA[-5:]
        assert libc.fseek(stream.handle, -1, os.SEEK_SET) != 0
        assert libc.fseek(stream.handle, 1000, os.SEEK_SET) == 0
        assert _read(libc, stream, 3) == DATA[1000:1003]


def test_progress_is_told(libc: ctypes.CDLL, path: Path) -> None:
    told: list[int] = []
    with ModelStream([path], [Piece(1000, 0, 0), Piece(500)], told.append) as stream:
        _read(libc, stream, 1500)
    assert told == sorted(told)
    assert told[-1] == 1500


def test_a_file_that_ends_early_is_kept_as_an_error(libc: ctypes.CDLL, path: Path) -> None:
    with ModelStream([path], [Piece(len(DATA), 0, 0)]) as stream:
        os.truncate(path, 1000)
        assert len(_read(libc, stream, len(DATA))) <= 1000
        assert libc.ferror(stream.handle)
        assert isinstance(stream.error, ModelLoadFailed)
        assert "ends early, at byte 1000" in stream.error.message
        assert _read(libc, stream, 10) == b""  # and stays


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_what_a_read_raises_does_not_reach_c(
    libc: ctypes.CDLL, path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*arguments: object) -> int:
        raise error

    with ModelStream([path], [Piece(3, given=b"abc"), Piece(10, 0, 0)]) as stream:
        monkeypatch.setattr(stream, "_read_file", fail)
        assert _read(libc, stream, 13) == b"abc"
        assert stream.error is error
        assert libc.ferror(stream.handle)


def test_a_file_that_is_not_there(path: Path, tmp_path: Path) -> None:
    n_open = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ModelLoadFailed, match=r"none\.gguf: No such file"):
        ModelStream([path, tmp_path / "none.gguf"], [])
    assert len(os.listdir("/proc/self/fd")) == n_open


def test_several_files(libc: ctypes.CDLL, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"0123456789")
    with ModelStream([path, other], [Piece(4, 1, 2), Piece(2, 0, 1), Piece(1, 1, 9)]) as stream:
        assert _read(libc, stream, 7) == b"2345\1\x029"
