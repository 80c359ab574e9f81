"""Read and write importance matrices: llama.cpp's imatrix GGUF files, and read its older binary ones.

    general.type         "imatrix"
    imatrix.datasets     strings: what was read
    imatrix.chunk_count  u32
    imatrix.chunk_size   u32, tokens
    NAME.in_sum2         F32 (n_matrices, n_columns): sums of squares of the input of tensor NAME
    NAME.counts          F32 (n_matrices, 1): tokens; files of early versions have one count for all matrices

The older format (`--output-format dat`) has no shapes: quant/imatrix_fit.py finds them in the model.

    i32 n_entries; for each: i32 length, name, i32 n_calls, i32 n_values, f32 values[n_values] (means times n_calls)
    then, optional: i32 n_chunks, i32 length, name of the data set

Source: save_imatrix in tools/imatrix/imatrix.cpp, common/imatrix-loader.cpp of llama.cpp 0c1e57098.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from quant.durable_files import DurableFiles
from quant.errors import GgufError
from quant.gguf_arrays import read_gguf_array, write_gguf_arrays
from quant.gguf_format import MAGIC, GgufValueType
from quant.gguf_read import GgufFile, read_gguf
from quant.gguf_write import GgufField
from quant.imatrix import Imatrix, ImatrixEntry
from quant.shown import shown
from quant.tensor_info import TensorInfo

_SUMS, _COUNTS = ".in_sum2", ".counts"
_DATASETS, _N_CHUNKS, _CHUNK_TOKENS = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"
_MOST_LEGACY_BYTES = 8 << 30  # a 235B model's has 0.5 GB
_NOT_ONE = "an importance matrix comes from `qwenctl imatrix` or llama-imatrix"


def write_imatrix(imatrix: Imatrix, path: Path, files: DurableFiles | None = None) -> None:
    """Write `imatrix` as llama.cpp does, in the order of its names: the same contents give the same bytes.

    Raises:
        ValueError: a tensor name that is too long for GGUF.
        OSError: the disk is full or refuses; what was under `path` before is still there.
    """
    arrays = {}
    for name in sorted(imatrix.entries):
        entry = imatrix.entries[name]
        arrays[name + _SUMS] = entry.sums
        arrays[name + _COUNTS] = entry.counts.reshape(-1, 1)
    metadata = {
        "general.type": GgufField(GgufValueType.STRING, "imatrix"),
        _DATASETS: GgufField(GgufValueType.STRING, list(imatrix.datasets)),
        _N_CHUNKS: GgufField(GgufValueType.UINT32, imatrix.n_chunks),
        _CHUNK_TOKENS: GgufField(GgufValueType.UINT32, imatrix.chunk_tokens),
    }
    write_gguf_arrays(path, metadata, arrays, files)


def read_imatrix(path: Path) -> Imatrix:
    """Return what the file holds, of either format.

    Entries of the older format come as one matrix however many experts they are of; `check_fits` divides them.

    Raises:
        GgufError: missing, unreadable, cut off, not an importance matrix, or numbers that cannot be statistics.
    """
    if _begins_with_magic(path):
        gguf = read_gguf(path)
        return Imatrix(_entries(gguf), _datasets(gguf), _count(gguf, _N_CHUNKS), _count(gguf, _CHUNK_TOKENS))
    return _read_legacy(path)


def _begins_with_magic(path: Path) -> bool:
    if not path.is_file():
        read_gguf(path)  # raises the error that says what it is instead
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise GgufError(path, error.strerror or str(error)) from error


def _entries(gguf: GgufFile) -> dict[str, ImatrixEntry]:
    path, stated = gguf.paths[0], gguf.metadata.get("general.type")
    if stated != "imatrix":  # a str or missing in any other GGUF file
        raise GgufError(path, f"not an importance matrix: general.type is {shown(stated)}", _NOT_ONE)
    sums = {name.removesuffix(_SUMS): info for name, info in gguf.tensors.items() if name.endswith(_SUMS)}
    counts = {name.removesuffix(_COUNTS): info for name, info in gguf.tensors.items() if name.endswith(_COUNTS)}
    if not sums:
        raise GgufError(path, "an importance matrix without statistics", _NOT_ONE)
    lonely = sorted(sums.keys() ^ counts.keys())
    if lonely:
        raise GgufError(path, f"{shown(lonely[0])} has sums without counts, or counts without sums")
    return {name: _entry(name, sums[name], counts[name]) for name in sums}


def _entry(name: str, sums_info: TensorInfo, counts_info: TensorInfo) -> ImatrixEntry:
    if sums_info.dtype != "F32" or counts_info.dtype != "F32":
        raise GgufError(sums_info.path, f"the statistics of {shown(name)} are not F32")
    sums = read_gguf_array(sums_info).reshape(-1, sums_info.n_columns).astype(np.float32)
    counts = read_gguf_array(counts_info).reshape(-1).astype(np.float32)
    if counts.size == 1:
        counts = np.repeat(counts, len(sums))
    return _checked_entry(sums_info.path, name, sums, counts)


def _checked_entry(path: Path, name: str, sums: np.ndarray, counts: np.ndarray) -> ImatrixEntry:
    try:
        return ImatrixEntry(sums, counts)
    except ValueError as error:
        raise GgufError(path, f"the statistics of {shown(name)}: {error}", "gather them again") from error


def _datasets(gguf: GgufFile) -> tuple[str, ...]:
    value = gguf.metadata.get(_DATASETS, [])
    return tuple(value) if isinstance(value, list) else ()  # an empty array may be of any type


def _count(gguf: GgufFile, key: str) -> int:
    value = gguf.metadata.get(key, 0)
    if type(value) is not int or value < 0:
        raise GgufError(gguf.paths[0], f"{key} is {shown(value)}, not a count")
    return value


def _read_legacy(path: Path) -> Imatrix:
    try:
        size = path.stat().st_size
        if size > _MOST_LEGACY_BYTES:
            raise GgufError(path, "not an importance matrix", _NOT_ONE)
        reader = _LegacyReader(path, path.read_bytes())
    except OSError as error:
        raise GgufError(path, error.strerror or str(error)) from error
    return reader.imatrix()


class _LegacyReader:
    """Steps through the bytes of an older file; each length is held against what is left."""

    def __init__(self, path: Path, data: bytes) -> None:
        self._path = path
        self._data = data
        self._position = 0

    def imatrix(self) -> Imatrix:
        n_entries = self._number("the number of entries")
        if not 1 <= n_entries <= len(self._data) // 16:
            raise GgufError(self._path, "not an importance matrix", _NOT_ONE)
        entries: Mapping[str, ImatrixEntry] = dict(self._entry() for _ in range(n_entries))
        if self._position == len(self._data):
            return Imatrix(entries)
        n_chunks = self._number("the number of chunks")
        datasets = (self._text("the data set"),) if self._position < len(self._data) else ()
        return Imatrix(entries, tuple(name for name in datasets if name), max(0, n_chunks))

    def _entry(self) -> tuple[str, ImatrixEntry]:
        name = self._text("the name of an entry")
        n_calls, n_values = self._number(f"calls of {shown(name)}"), self._number(f"length of {shown(name)}")
        if n_values < 1 or n_calls < 0:
            raise GgufError(self._path, f"{shown(name)} has {n_values} values of {n_calls} calls")
        values = np.frombuffer(self._take(4 * n_values, f"the values of {shown(name)}"), "<f4")
        counts = np.array([max(1, n_calls)], np.float32)  # 0 calls: the values are the means
        return name, _checked_entry(self._path, name, values.astype(np.float32).reshape(1, -1), counts)

    def _number(self, what: str) -> int:
        value: int = struct.unpack("<i", self._take(4, what))[0]
        return value

    def _text(self, what: str) -> str:
        return self._take(self._number(what), what).decode("utf-8", "replace")

    def _take(self, n_bytes: int, what: str) -> bytes:
        start, end = self._position, self._position + n_bytes
        if n_bytes < 0 or end > len(self._data):
            raise GgufError(self._path, f"not an importance matrix, or cut off: {what} ends behind the file", _NOT_ONE)
        self._position = end
        return self._data[start:end]
