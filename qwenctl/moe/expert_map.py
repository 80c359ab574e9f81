"""Where each expert's matrices lie in a model's GGUF file or split set.

    blk.7.ffn_gate_exps.weight   (n_experts, n_out, n_in)   numpy order; one expert is one contiguous piece

    offset of expert e  =  offset of the tensor + e × n_out × bytes of a row

A map exists only where that sum is exact for every tensor and the matrices of a layer fit together; otherwise
`why_not` says what is in the way. Biases and scales of experts are small and belong to the dense part. Layers for
multi-token prediction at the end are left out altogether, since llama.cpp does not load them unless it is asked to.
Names, shapes and keys: llama-arch.cpp, llama-model.cpp and models/*.cpp of llama.cpp 0c1e57098. Knows nothing of
reading, slots or devices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from quant.ggml_types import GGML_TYPES, GgmlType
from quant.gguf_read import GgufFile
from quant.tensor_info import TensorInfo
from qwenctl.errors import ExpertReadFailed

Kind = Literal["gate", "up", "gate_up", "down"]

_NAME = re.compile(r"blk\.(?P<layer>\d+)\.ffn_(?P<kind>gate|up|down|gate_up)_exps\.weight")
_BLOCK = re.compile(r"blk\.(?P<layer>\d+)\.")
_ORDERS: tuple[tuple[Kind, ...], ...] = (("gate", "up", "down"), ("gate_up", "down"))


@dataclass(frozen=True, slots=True)
class Slice:
    """One expert's matrix in a file: `file` indexes the map's paths, the offset counts from the file's start."""

    file: int
    offset_bytes: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class ExpertTensor:
    """One matrix of all experts of a layer: (n_experts, n_out, n_in), `expert_bytes` each, one after the other."""

    name: str
    kind: Kind
    layer: int
    type: GgmlType
    n_in: int
    n_out: int
    n_experts: int
    expert_bytes: int
    file: int
    offset_bytes: int  # of expert 0, from the start of the file

    def slice(self, expert: int) -> Slice:
        """Return where an expert's matrix lies.

        Raises:
            IndexError: there is no such expert.
        """
        if not 0 <= expert < self.n_experts:
            raise IndexError(f"expert {expert} of {self.n_experts} in {self.name}")
        return Slice(self.file, self.offset_bytes + expert * self.expert_bytes, self.expert_bytes)


@dataclass(frozen=True, slots=True)
class MoeLayer:
    """A layer with experts; its tensors in the order gate, up, down or gate_up, down. `index` is llama.cpp's."""

    index: int
    tensors: tuple[ExpertTensor, ...]

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert in the file: all its matrices."""
        return sum(tensor.expert_bytes for tensor in self.tensors)

    @property
    def n_experts(self) -> int:
        """Number of experts."""
        return self.tensors[0].n_experts


@dataclass(frozen=True, slots=True)
class ExpertMap:
    """All experts of a model. Layers without experts are absent; `slices` takes a position in `layers`.

    `n_experts_used` is the largest, where layers differ.
    """

    paths: tuple[Path, ...]
    file_bytes: tuple[int, ...]
    architecture: str
    n_experts: int
    n_experts_used: int
    n_embd: int
    layers: tuple[MoeLayer, ...]
    dense_bytes: int  # all other tensors that llama.cpp loads

    @property
    def expert_bytes(self) -> int:
        """Bytes of all experts of all layers."""
        return sum(layer.expert_bytes * layer.n_experts for layer in self.layers)

    @property
    def cycle_bytes(self) -> int:
        """Bytes of the experts that one token uses."""
        return sum(layer.expert_bytes * self.n_experts_used for layer in self.layers)

    def slices(self, layer_index: int, expert: int) -> tuple[Slice, ...]:
        """Return where the matrices of an expert lie, in the order of the layer's tensors.

        Args:
            layer_index: position in `layers`.
            expert: which one.

        Raises:
            IndexError: there is no such layer or expert.
        """
        return tuple(tensor.slice(expert) for tensor in self.layers[layer_index].tensors)


class _Obstacle(Exception):
    """Why there can be no map of a model, in one line."""


def read_expert_map(gguf: GgufFile) -> ExpertMap | None:
    """Return where the experts lie, or None where `why_not` has a reason.

    Raises:
        ExpertReadFailed: the files are not those any more that the header was read from.
    """
    try:
        return _build(gguf, _file_bytes(gguf))
    except _Obstacle:
        return None


def planned_expert_map(gguf: GgufFile) -> ExpertMap | None:
    """Return where the experts of a file will lie that is not there yet; None where there are none to be mapped."""
    try:
        return _build(gguf, (gguf.size_bytes,))
    except _Obstacle:
        return None


def why_not(gguf: GgufFile) -> str | None:
    """Return in one line why the model's experts cannot be mapped, None where they can.

    Raises:
        ExpertReadFailed: the files are not those any more that the header was read from.
    """
    try:
        _build(gguf, _file_bytes(gguf))
    except _Obstacle as obstacle:
        return str(obstacle)
    return None


def _build(gguf: GgufFile, file_bytes: tuple[int, ...]) -> ExpertMap:
    architecture = gguf.metadata.get("general.architecture")
    by_layer: dict[int, dict[Kind, TensorInfo]] = {}
    loaded = _loaded(gguf, str(architecture))
    for name, info in loaded.items():
        if match := _NAME.fullmatch(name):
            layer = by_layer.setdefault(int(match["layer"]), {})
            layer[next(kind for kind in get_args(Kind) if kind == match["kind"])] = info
    if not by_layer:
        raise _Obstacle("the file holds no tensors of experts (blk.N.ffn_*_exps.weight)")
    n_experts = _count(gguf, f"{architecture}.expert_count")
    n_used = _count(gguf, f"{architecture}.expert_used_count")
    if n_used > n_experts:
        raise _Obstacle(f"{n_used} experts of {n_experts} are used for a token")
    layers = tuple(_layer(gguf, index, by_layer[index], n_experts) for index in sorted(by_layer))
    mapped = sum(info.n_bytes for tensors in by_layer.values() for info in tensors.values())
    return ExpertMap(
        paths=gguf.paths,
        file_bytes=file_bytes,
        architecture=str(architecture),
        n_experts=n_experts,
        n_experts_used=n_used,
        n_embd=_count(gguf, f"{architecture}.embedding_length"),
        layers=layers,
        dense_bytes=sum(info.n_bytes for info in loaded.values()) - mapped,
    )


def _loaded(gguf: GgufFile, architecture: str) -> dict[str, TensorInfo]:
    """Return the tensors without those of the last `nextn_predict_layers` blocks."""
    n_predicting = gguf.metadata.get(f"{architecture}.nextn_predict_layers", 0)
    if not isinstance(n_predicting, int) or n_predicting <= 0:
        return dict(gguf.tensors)
    end = _count(gguf, f"{architecture}.block_count") - n_predicting
    blocks = {name: _BLOCK.match(name) for name in gguf.tensors}
    return {name: gguf.tensors[name] for name, block in blocks.items() if block is None or int(block["layer"]) < end}


def _layer(gguf: GgufFile, index: int, found: Mapping[Kind, TensorInfo], n_experts: int) -> MoeLayer:
    order = next((order for order in _ORDERS if set(order) == set(found)), None)
    if order is None:
        raise _Obstacle(f"layer {index} has experts of {', '.join(sorted(found))} instead of gate, up, down")
    layer = MoeLayer(index, tuple(_tensor(gguf, index, kind, found[kind], n_experts) for kind in order))
    first, *_, down = layer.tensors
    n_ff = first.n_out // 2 if first.kind == "gate_up" else first.n_out
    halves = first.kind != "gate_up" or first.n_out % 2 == 0
    same = all((tensor.n_in, tensor.n_out) == (first.n_in, first.n_out) for tensor in layer.tensors[:-1])
    if not (same and halves and (down.n_in, down.n_out) == (n_ff, first.n_in)):
        shapes = ", ".join(f"{tensor.kind} {tensor.n_in}×{tensor.n_out}" for tensor in layer.tensors)
        raise _Obstacle(f"the experts' matrices of layer {index} do not fit together: {shapes}")
    return layer


def _tensor(gguf: GgufFile, layer: int, kind: Kind, info: TensorInfo, n_experts: int) -> ExpertTensor:
    if len(info.shape) != 3 or info.shape[0] != n_experts:
        raise _Obstacle(f"{info.name} has the shape {info.shape} instead of ({n_experts}, rows, columns)")
    _, n_out, n_in = info.shape
    entry = GGML_TYPES.get(info.dtype)
    if entry is None or not entry.divides(n_in):
        raise _Obstacle(f"{info.name} has rows of {n_in} in {info.dtype}: not a whole number of blocks")
    expert_bytes = n_out * entry.row_bytes(n_in)
    if expert_bytes == 0 or expert_bytes * n_experts != info.n_bytes:
        raise _Obstacle(f"{info.name} has {info.n_bytes:,} bytes: not {n_experts} experts of {expert_bytes:,}")
    file = gguf.paths.index(info.path)
    return ExpertTensor(info.name, kind, layer, entry, n_in, n_out, n_experts, expert_bytes, file, info.offset_bytes)


def _count(gguf: GgufFile, key: str) -> int:
    value = gguf.metadata.get(key)
    if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "iu":  # one for each layer
        value = int(value.max())
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise _Obstacle(f"{key} is not a number of at least 1")
    return value


def _file_bytes(gguf: GgufFile) -> tuple[int, ...]:
    try:
        sizes = tuple(path.stat().st_size for path in gguf.paths)
    except OSError as error:
        raise ExpertReadFailed(
            f"{error.filename}: {error.strerror}", "the model's file is gone: open it again"
        ) from error
    if sum(sizes) != gguf.size_bytes:
        raise ExpertReadFailed(
            f"{gguf.paths[0]}: {sum(sizes):,} bytes now, {gguf.size_bytes:,} when its header was read",
            "the model's file was changed: open it again",
        )
    return sizes
