"""What the stream of a model holds, piece by piece: a file or a split set as one GGUF file whose experts are skipped.

    one file     header, dense … ⟨experts⟩ … dense                     as the file is
    split set    merged header │ dense … ⟨experts⟩ … │ dense …         tensors of all files in order, zeros between
                 given bytes     first file            second file     them as the alignment demands

The merged header has the first file's metadata, but for what says that the set is split, and the places that tensors
get in the stream. It is for llama.cpp, which reads split sets by their names only, and streams have none. Knows
nothing of C streams.
"""

from __future__ import annotations

from collections.abc import Iterator

from quant.ggml_types import GGML_TYPES
from quant.gguf_read import GgufFile
from quant.gguf_write import GgufField, GgufTensor, plan_layout
from qwenctl.moe.expert_map import ExpertMap
from qwenctl.moe.model_stream import Piece

_SPLIT_KEYS = frozenset({"split.no", "split.count", "split.tensors.count"})


def stream_pieces(gguf: GgufFile, experts: ExpertMap) -> list[Piece]:
    """Return the model's file, or its split set as one file, with the mapped experts skipped.

    Args:
        gguf: the model's header.
        experts: the map read from it: pieces name files by their position in its paths, which are the header's.
    """
    if len(experts.paths) == 1:
        return list(_single_file(experts))
    return list(_split_set(gguf, experts))


def _single_file(experts: ExpertMap) -> Iterator[Piece]:
    ranges = sorted(
        (tensor.offset_bytes, tensor.expert_bytes * tensor.n_experts)
        for layer in experts.layers
        for tensor in layer.tensors
    )
    position = 0
    for offset, n_bytes in ranges:
        yield Piece(offset - position, 0, position)
        yield Piece(n_bytes)
        position = offset + n_bytes
    yield Piece(experts.file_bytes[0] - position, 0, position)


def _split_set(gguf: GgufFile, experts: ExpertMap) -> Iterator[Piece]:
    infos = list(gguf.tensors.values())
    layout = plan_layout(
        {
            key: GgufField(gguf.value_types[key], value)
            for key, value in gguf.metadata.items()
            if key not in _SPLIT_KEYS
        },
        [GgufTensor(info.name, info.shape, GGML_TYPES[info.dtype]) for info in infos],
        gguf.alignment,
    )
    skipped = {tensor.name for layer in experts.layers for tensor in layer.tensors}
    files = {path: index for index, path in enumerate(experts.paths)}
    yield Piece(len(layout.header), given=layout.header)
    ends = [*(placed.offset_bytes for placed in layout.placed[1:]), layout.total_bytes]
    for info, placed, end in zip(infos, layout.placed, ends, strict=True):
        if info.name in skipped:
            yield Piece(info.n_bytes)
        else:
            yield Piece(info.n_bytes, files[info.path], info.offset_bytes)
        n_zeros = end - placed.offset_bytes - info.n_bytes
        yield Piece(n_zeros, given=bytes(n_zeros))
