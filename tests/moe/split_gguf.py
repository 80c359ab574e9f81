"""Cut a GGUF file into a split set, as llama.cpp's gguf-split does: the metadata in the first file, tensors in turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quant.ggml_types import GGML_TYPES
from quant.gguf_read import read_gguf
from quant.gguf_write import GgufField, GgufTensor, GgufValueType, plan_layout

_ARCHITECTURE = "general.architecture"


def split_gguf(path: Path, folder: Path, cuts: Sequence[int]) -> Path:
    """Write a file's tensors to several, the first `cuts[0]` to the first one; return the first one's path."""
    gguf = read_gguf(path)
    infos = list(gguf.tensors.values())
    data = path.read_bytes()
    ends = [*cuts, len(infos)]
    paths = [folder / f"{path.stem}-{n + 1:05d}-of-{len(ends):05d}.gguf" for n in range(len(ends))]
    for number, (start, end) in enumerate(zip([0, *cuts], ends, strict=True)):
        part = infos[start:end]
        metadata = {key: GgufField(gguf.value_types[key], value) for key, value in gguf.metadata.items()}
        if number:
            metadata = {key: metadata[key] for key in (_ARCHITECTURE, "general.alignment") if key in metadata}
        metadata["split.no"] = GgufField(GgufValueType.UINT16, number)
        metadata["split.count"] = GgufField(GgufValueType.UINT16, len(ends))
        metadata["split.tensors.count"] = GgufField(GgufValueType.INT32, len(infos))
        tensors = [GgufTensor(info.name, info.shape, GGML_TYPES[info.dtype]) for info in part]
        layout = plan_layout(metadata, tensors, gguf.alignment)
        out = bytearray(layout.header.ljust(layout.total_bytes, b"\0"))
        for info, placed in zip(part, layout.placed, strict=True):
            stored = data[info.offset_bytes : info.offset_bytes + info.n_bytes]
            out[placed.offset_bytes : placed.offset_bytes + placed.n_bytes] = stored
        paths[number].write_bytes(out)
    return paths[0]
