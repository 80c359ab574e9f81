"""A limit on memory for a child, page cache included, and an empty page cache before it starts.

Control groups of version 1 or 2, as root. What other processes hold of a file in the cache is not charged to a child
that reads it again: so the cache is emptied before each child, and what could not be dropped is told.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PAGE_BYTES = mmap.PAGESIZE
_READ_BYTES = 4 << 20
_N_READERS = 4


@contextmanager
def memory_limit(limit_bytes: int, root: Path = _ROOT) -> Iterator[Path]:
    """Make a control group with a limit; yield the file that takes process numbers; remove the group afterwards.

    Raises:
        SystemExit: none can be made.
    """
    version_1 = root / "memory"
    group = (version_1 if version_1.is_dir() else root) / f"qwenctl-bench-{os.getpid()}"
    try:
        if version_1.is_dir():
            group.mkdir()
            (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        else:
            with suppress(OSError):  # the controller may be enabled already
                (root / "cgroup.subtree_control").write_text("+memory")
            group.mkdir()
            (group / "memory.max").write_text(str(limit_bytes))
            with suppress(OSError):  # a kernel without swap
                (group / "memory.swap.max").write_text("0")
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        raise SystemExit(f"no memory limit can be set here ({error}); it takes root and control groups") from error
    try:
        yield group / "cgroup.procs"
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    """A killed child's memory is given back a moment after its end."""
    for _ in range(100):
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.1)
        else:
            return


def empty_cache(path: Path) -> int:
    """Drop a file from the page cache; return the bytes that stayed, because another process maps them."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return _cached_bytes(file.fileno(), path.stat().st_size)


def _cached_bytes(fd: int, n_bytes: int) -> int:
    """Count a file's pages in memory with mincore(2)."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = library.mmap(None, n_bytes, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        return 0
    pages = ctypes.create_string_buffer(-(-n_bytes // _PAGE_BYTES))
    status = library.mincore(address, n_bytes, pages)
    library.munmap(address, n_bytes)
    return 0 if status else _PAGE_BYTES * sum(value & 1 for value in pages.raw)


def disk_bytes_per_s(path: Path, n_bytes: int = 1 << 30) -> float:
    """Read a part of the file past the page cache, 4 reads of 4 MiB at a time; return the rate."""
    n_reads = max(1, min(n_bytes, path.stat().st_size) // _READ_BYTES)
    flags = os.O_RDONLY | getattr(os, "O_DIRECT", 0)
    fd = os.open(path, flags)
    buffers = [mmap.mmap(-1, _READ_BYTES) for _ in range(_N_READERS)]

    def read(reader: int) -> int:
        return sum(
            os.preadv(fd, [buffers[reader]], number * _READ_BYTES) for number in range(reader, n_reads, _N_READERS)
        )

    started = time.perf_counter()
    try:
        with ThreadPoolExecutor(_N_READERS) as threads:
            n_read = sum(threads.map(read, range(_N_READERS)))
    finally:
        os.close(fd)
    return n_read / (time.perf_counter() - started)
