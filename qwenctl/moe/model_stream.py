"""The model's file as a C stream that llama.cpp reads from end to end, and that skips the experts.

    llama.cpp:   fread ──► header and dense tensors: read from the file
                       └─► experts: "read", whatever the stream's buffer holds: nothing comes from the disk

llama.cpp has no way to load a model and leave some tensors alone. With mmap it asks the kernel to populate the whole
mapping (130 GB of experts read for nothing), and what the mapping holds can be evicted under memory pressure, the dense
part with it. Without mmap it allocates every tensor and reads it. The second way is the right one for the dense part:
it ends in anonymous memory. For the experts it costs a copy within the processor's cache, 10-20 GB/s, because their
device (backend.py) has them "uploaded" through buffers of 1 MiB, and ignores what it is given.

A set of split files appears as one stream: their headers' tensors merged. Pages read are dropped from the page cache.
Linux only (fopencookie of glibc); `can_stream` says whether. Knows nothing of ggml.
"""

from __future__ import annotations

import bisect
import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from qwenctl.errors import ModelLoadFailed

_BUFFER_BYTES = 1 << 18  # of the C stream; glibc passes all that such streams hold through it
_IOFBF = 0
_SEEK_SET, _SEEK_CUR, _SEEK_END = 0, 1, 2
_EIO = 5

_Read = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_Write = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_Seek = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64), ctypes.c_int)
_Close = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)


class _Functions(ctypes.Structure):
    """`cookie_io_functions_t` of stdio.h."""

    _fields_ = (("read", _Read), ("write", _Write), ("seek", _Seek), ("close", _Close))


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the stream: bytes of a file, bytes that are given, or a stretch that is skipped."""

    n_bytes: int
    file: int = -1  # -1: none
    offset_bytes: int = 0
    given: bytes | None = None


def can_stream() -> bool:
    """Return whether this system's C library makes streams from functions."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "fopencookie")


class ModelStream:
    """A C `FILE *` over pieces of files.

    Args:
        paths: the files.
        pieces: what the stream holds, in order.
        on_progress: called with the bytes passed so far.

    Attributes:
        handle: the `FILE *`, for llama_model_load_from_file_ptr.
        error: what a read raised; C only learns that reading failed.
        bytes_read: bytes that came from the files.

    Raises:
        ModelLoadFailed: a file cannot be opened.
    """

    def __init__(
        self, paths: Sequence[Path], pieces: Sequence[Piece], on_progress: Callable[[int], None] | None = None
    ) -> None:
        self._paths = paths
        self._pieces = [piece for piece in pieces if piece.n_bytes]
        self._starts = [0]
        for piece in self._pieces:
            self._starts.append(self._starts[-1] + piece.n_bytes)
        self.n_bytes = self._starts.pop()
        self._on_progress = on_progress
        self._position = 0
        self.bytes_read = 0
        self.error: BaseException | None = None
        self._files: list[int] = []
        try:
            for path in paths:
                self._files.append(os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)))
        except OSError as error:
            self._close_files()
            raise ModelLoadFailed(f"{path}: {error.strerror}") from error
        # They must live as long as the stream.
        self._functions = _Functions(_Read(self._read), _Write(), _Seek(self._seek), _Close(lambda _: 0))
        self._buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
        self._libc = _libc()
        self.handle = self._libc.fopencookie(None, b"rb", self._functions)
        if not self.handle:
            self._close_files()
            raise MemoryError("fopencookie")
        self._libc.setvbuf(self.handle, self._buffer, _IOFBF, _BUFFER_BYTES)

    def close(self) -> None:
        """Close the stream and its files."""
        handle, self.handle = self.handle, None
        if handle:
            self._libc.fclose(handle)
        self._close_files()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _close_files(self) -> None:
        while self._files:
            file = self._files.pop()
            with suppress(OSError):
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)

    def _read(self, _cookie: int | None, destination: int, n_bytes: int) -> int:
        if self.error is not None:
            return -1
        try:
            return self._read_some(destination, n_bytes)
        except BaseException as error:  # nothing may be raised into C
            self.error = error
            ctypes.set_errno(_EIO)
            return -1

    def _read_some(self, destination: int, n_bytes: int) -> int:
        """Read up to `n_bytes` to an address, not beyond the end of a piece. Returns how many; 0 at the end."""
        index = bisect.bisect_right(self._starts, self._position) - 1
        if self._position >= self.n_bytes or index < 0:
            return 0
        piece = self._pieces[index]
        inside = self._position - self._starts[index]
        n_bytes = min(n_bytes, piece.n_bytes - inside)
        if piece.given is not None:
            ctypes.memmove(destination, piece.given[inside : inside + n_bytes], n_bytes)
        elif piece.file >= 0:
            n_bytes = self._read_file(piece, inside, destination, n_bytes)
        self._position += n_bytes
        if self._on_progress:
            self._on_progress(self._position)
        return n_bytes

    def _read_file(self, piece: Piece, inside: int, destination: int, n_bytes: int) -> int:
        target = (ctypes.c_char * n_bytes).from_address(destination)
        offset = piece.offset_bytes + inside
        n_read = os.preadv(self._files[piece.file], [target], offset)
        if n_read <= 0:
            raise ModelLoadFailed(
                f"{self._paths[piece.file]}: ends early, at byte {offset}", "run `qwenctl verify` on it"
            )
        os.posix_fadvise(self._files[piece.file], offset, n_read, os.POSIX_FADV_DONTNEED)
        self.bytes_read += n_read
        return n_read

    def _seek(self, _cookie: int | None, offset: ctypes._Pointer[ctypes.c_int64], whence: int) -> int:
        base = {_SEEK_SET: 0, _SEEK_CUR: self._position, _SEEK_END: self.n_bytes}.get(whence)
        if base is None or base + offset[0] < 0:
            return -1
        self._position = base + offset[0]
        offset[0] = self._position
        return 0


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.fopencookie.restype = ctypes.c_void_p
    libc.fopencookie.argtypes = [ctypes.c_void_p, ctypes.c_char_p, _Functions]
    libc.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    libc.fclose.argtypes = [ctypes.c_void_p]
    return libc
