"""Lay safetensors files out before a tensor's bytes are known: shards, headers, offsets, and the index over them.

    shard        model-00001-of-00003.safetensors; a single one is model.safetensors and needs no index
    header       u64 length, JSON, spaces up to a multiple of 64 bytes; the data follows without holes

Pure; the reverse of quant/safetensors_read.py, whose docstring draws the format.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path

from quant.checkpoint import SINGLE_FILE
from quant.safetensors_read import DTYPE_BITS
from quant.tensor_info import TensorInfo

_HEADER_STEP = 64
_METADATA = {"format": "pt"}  # transformers refuses files that do not say so


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor to be written; `dtype` is a name of the format."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of its data."""
        return prod(self.shape) * DTYPE_BITS[self.dtype] // 8


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """One file: `header` is its beginning; `tensors` are in the order of their data, offsets from the file's start."""

    name: str
    header: bytes
    tensors: tuple[TensorInfo, ...]

    @property
    def total_bytes(self) -> int:
        """Length of the file."""
        return len(self.header) + sum(tensor.n_bytes for tensor in self.tensors)


def plan_shards(bundles: Iterable[Sequence[NewTensor]], max_shard_bytes: int) -> tuple[ShardLayout, ...]:
    """Return the files that hold the tensors, in their order.

    Args:
        bundles: tensors that stay together in one file, adjacent.
        max_shard_bytes: of data in one file, unless a single bundle has more.

    Raises:
        ValueError: as `lay_out`.
    """
    shards: list[list[NewTensor]] = [[]]
    n_bytes = 0
    for bundle in bundles:
        bundle_bytes = sum(tensor.n_bytes for tensor in bundle)
        if shards[-1] and n_bytes + bundle_bytes > max_shard_bytes:
            shards.append([])
            n_bytes = 0
        shards[-1] += bundle
        n_bytes += bundle_bytes
    names = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [SINGLE_FILE]
    return tuple(lay_out(name, tensors) for name, tensors in zip(names, shards, strict=True))


def index_json(shards: Sequence[ShardLayout]) -> bytes:
    """Return the contents of model.safetensors.index.json."""
    document = {
        "metadata": {"total_size": sum(tensor.n_bytes for shard in shards for tensor in shard.tensors)},
        "weight_map": {tensor.name: shard.name for shard in shards for tensor in shard.tensors},
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def lay_out(name: str, tensors: Sequence[NewTensor], metadata: Mapping[str, str] = _METADATA) -> ShardLayout:
    """Return one file of tensors, in their order.

    Args:
        name: of the file.
        tensors: what it holds.
        metadata: its `__metadata__`.

    Raises:
        ValueError: a tensor that would not begin at a multiple of its element's size, as loaders demand.
    """
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    begins = list(accumulate((tensor.n_bytes for tensor in tensors), initial=0))
    for tensor, begin in zip(tensors, begins, strict=False):
        if begin % (DTYPE_BITS[tensor.dtype] // 8):
            raise ValueError(f"{tensor.name} would begin at byte {begin:,} of the data, no multiple of its elements'")
        end = begin + tensor.n_bytes
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(-(-(8 + len(text)) // _HEADER_STEP) * _HEADER_STEP - 8)
    header = struct.pack("<Q", len(text)) + text
    path = Path(name)
    placed = (
        TensorInfo(tensor.name, tensor.dtype, tensor.shape, path, len(header) + begin, tensor.n_bytes)
        for tensor, begin in zip(tensors, begins, strict=False)
    )
    return ShardLayout(name, header, tuple(placed))
