"""Open a GGUF file, or a set of split files: the header, and where each tensor lies.

A `GgufFile` exists only where every tensor lies inside its file, at the offset that the sizes before it demand, and
nothing follows the last one. So a truncated download, a file with a hole or a shard of another model is refused here,
and code behind it can trust offsets. Tensor data is never touched; a header of 6 MB is read whatever the file's size.

    model.gguf                                        one file, or
    model-00001-of-00003.gguf …                       a split set: split.no, split.count and split.tensors.count (u16,
                                                      u16, i32) in each; all other metadata in the first

Rules of placement: gguf.cpp; of split sets: llama-model-loader.cpp, both of llama.cpp 0c1e57098.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quant.errors import GgufError
from quant.gguf_cursor import MAX_HEADER_BYTES, NeedMoreBytesError
from quant.gguf_format import GgufValueType, padded
from quant.gguf_header import GgufHeader, GgufValue, parse_header
from quant.shown import shown
from quant.tensor_info import TensorInfo

_FIRST_READ_BYTES = 16 << 20
_SPLIT_NAME = re.compile(r"(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_SPLIT_KEYS = {
    "split.no": GgufValueType.UINT16,  # llama.cpp aborts on any other type in the second file and later ones
    "split.count": GgufValueType.UINT16,
    "split.tensors.count": GgufValueType.INT32,
}
_SAME_IN_ALL = ("general.architecture", "general.file_type")


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A validated file or split set.

    Tensors are in the order of their data, with offsets from the start of the file that each names. Metadata, its
    types (of the elements, for arrays), version and alignment are those of the first file.
    """

    paths: tuple[Path, ...]
    version: int
    alignment: int
    metadata: Mapping[str, GgufValue]
    value_types: Mapping[str, GgufValueType]
    tensors: Mapping[str, TensorInfo]
    data_offset_bytes: int  # where the data section of the first file starts
    size_bytes: int  # of all files

    @property
    def n_ctx_train(self) -> int | None:
        """The context that the model was trained for, in tokens; None: the file does not say."""
        value = self.metadata.get(f"{self.metadata.get('general.architecture')}.context_length")
        return value if isinstance(value, int) else None


@dataclass(frozen=True, slots=True)
class _Part:
    path: Path
    header: GgufHeader
    tensors: dict[str, TensorInfo]
    data_offset_bytes: int
    size_bytes: int


def read_gguf(path: Path) -> GgufFile:
    """Return what the file, or the split set of which it is the first, holds.

    Raises:
        GgufError: missing, unreadable, malformed, cut off, or a split set that is not complete and of one piece.
    """
    first = _read_part(path)
    parts = [first, *_other_parts(first)]
    tensors: dict[str, TensorInfo] = {}
    for part in parts:
        for name, info in part.tensors.items():
            if name in tensors:
                raise GgufError(part.path, f"tensor {shown(name)} is in {tensors[name].path.name} as well")
            tensors[name] = info
    if len(parts) > 1 and _split_value(first, "split.tensors.count") != len(tensors):
        stated = _split_value(first, "split.tensors.count")
        raise GgufError(path, f"split.tensors.count is {stated}, the {len(parts)} files hold {len(tensors)} tensors")
    return GgufFile(
        paths=tuple(part.path for part in parts),
        version=first.header.version,
        alignment=first.header.alignment,
        metadata=first.header.metadata,
        value_types=first.header.value_types,
        tensors=tensors,
        data_offset_bytes=first.data_offset_bytes,
        size_bytes=sum(part.size_bytes for part in parts),
    )


def _read_part(path: Path) -> _Part:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise GgufError(path, "not a regular file")
        header = _read_header(path, status.st_size)
    except OSError as error:
        raise GgufError(path, error.strerror or str(error)) from error
    data_offset = padded(header.n_bytes, header.alignment)
    return _Part(path, header, _place(path, header, data_offset, status.st_size), data_offset, status.st_size)


def _read_header(path: Path, file_bytes: int) -> GgufHeader:
    with path.open("rb") as file:
        data = file.read(min(_FIRST_READ_BYTES, file_bytes))
        try:
            return parse_header(path, data, file_bytes)
        except NeedMoreBytesError:
            data += file.read(MAX_HEADER_BYTES - len(data))
    try:
        return parse_header(path, data, file_bytes)
    except NeedMoreBytesError:
        raise GgufError(path, f"ended at byte {len(data):,} while it was read, was {file_bytes:,} bytes long") from None


def _place(path: Path, header: GgufHeader, data_offset: int, file_bytes: int) -> dict[str, TensorInfo]:
    """Return the tensors with absolute offsets, each held against the sizes of those before it."""
    tensors: dict[str, TensorInfo] = {}
    expected, end = 0, header.n_bytes
    for tensor in header.tensors:
        if tensor.data_offset != expected:
            raise GgufError(
                path, f"tensor {shown(tensor.name)} is at data offset {tensor.data_offset:,} instead of {expected:,}"
            )
        n_bytes = tensor.type.tensor_bytes(tensor.shape)
        start, end = data_offset + expected, data_offset + expected + n_bytes
        if end > file_bytes:
            raise GgufError(
                path,
                f"tensor {shown(tensor.name)} ends at byte {end:,}, the file at {file_bytes:,}",
                "download it again: it was cut off",
            )
        tensors[tensor.name] = TensorInfo(tensor.name, tensor.type.name, tensor.shape, path, start, n_bytes)
        expected += padded(n_bytes, header.alignment)
    if file_bytes > padded(end, header.alignment):
        raise GgufError(path, f"{file_bytes - end:,} bytes follow the last tensor")
    return tensors


def _other_parts(first: _Part) -> list[_Part]:
    """Return the other files of a split set, each held against the first."""
    count = _split_value(first, "split.count", default=0)
    if count <= 1:  # 0 in files that were split and merged again
        return []
    match = _SPLIT_NAME.fullmatch(first.path.name)
    if match is None or int(match["count"]) != count:
        raise GgufError(first.path, f"one of {count} split files, but not named …-00001-of-{count:05d}.gguf")
    if _split_value(first, "split.no") != 0 or match["number"] != "00001":
        hint = f"name {match['prefix']}-00001-of-{count:05d}.gguf instead"
        raise GgufError(first.path, "not the first file of its split set", hint)
    paths = [first.path.with_name(f"{match['prefix']}-{n:05d}-of-{count:05d}.gguf") for n in range(2, count + 1)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise GgufError(first.path, f"{len(missing)} of {count} split files are missing, the first {missing[0]}")
    parts = [_read_part(path) for path in paths]
    for number, part in enumerate(parts, 1):
        _check_sibling(first, part, number, count)
    return parts


def _check_sibling(first: _Part, part: _Part, number: int, count: int) -> None:
    expected = {"split.no": number, "split.count": count}
    expected["split.tensors.count"] = _split_value(first, "split.tensors.count")
    for key, value in expected.items():
        if _split_value(part, key) != value:
            raise GgufError(part.path, f"{key} is {_split_value(part, key)} instead of {value}")
    for key in _SAME_IN_ALL:
        mine, theirs = part.header.metadata.get(key), first.header.metadata.get(key)
        if mine is not None and (isinstance(mine, np.ndarray) or isinstance(theirs, np.ndarray) or mine != theirs):
            raise GgufError(part.path, f"{key} is {shown(mine)}, in {first.path.name} it is {shown(theirs)}")


def _split_value(part: _Part, key: str, default: int | None = None) -> int:
    value = part.header.metadata.get(key, default)
    value_type = part.header.value_types.get(key, _SPLIT_KEYS[key])
    if not isinstance(value, int) or value_type is not _SPLIT_KEYS[key]:
        raise GgufError(part.path, f"{key} must be one {_SPLIT_KEYS[key].name}, not {shown(value)}")
    return value
