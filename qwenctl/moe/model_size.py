"""How large a model's parts are: what sizing and the choice of the micro-batch compute with. Values only."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from quant.ggml_types import GGML_TYPES
from quant.gguf_read import GgufFile
from quant.tensor_info import TensorInfo
from qwenctl.moe.context_memory import ContextShape
from qwenctl.moe.expert_map import ExpertMap

_AMX_EXTRA_BYTES = {"Q8_0": 4, "Q4_K": 4, "Q5_K": 4, "IQ4_XS": 2}  # a block: get_row_size in ggml-cpu/amx/mmq.cpp


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Bytes and arithmetic of a Mixture-of-Experts model; one entry a layer with experts.

    Raises:
        ValueError: no layers with experts, lists of different lengths, or no experts used.
    """

    n_experts: int
    n_experts_used: int
    layers: tuple[int, ...]  # indexes of the layers with experts
    expert_bytes: tuple[int, ...]  # of one expert in the file
    slot_bytes: tuple[int, ...]  # of one expert in a slot, in the layout chosen
    expert_macs: tuple[int, ...]  # multiplications of one token in one expert
    largest_slice_bytes: int  # of one expert's largest matrix in the file
    dense_bytes: int  # of all other tensors as they will lie in memory
    embedding_bytes: int  # of dense_bytes: the token embedding, which never leaves main memory
    output_bytes: int  # of dense_bytes: the output matrix and norm
    file_bytes: int
    shape: ContextShape

    def __post_init__(self) -> None:
        lists = (self.layers, self.expert_bytes, self.slot_bytes, self.expert_macs)
        if not self.layers or len({len(one) for one in lists}) != 1:
            raise ValueError("layers, expert_bytes, slot_bytes and expert_macs need one entry a layer with experts")
        if not 0 < self.n_experts_used <= self.n_experts:
            raise ValueError(f"{self.n_experts_used} of {self.n_experts} experts used")

    @property
    def n_moe_layers(self) -> int:
        """Layers with experts."""
        return len(self.layers)

    @property
    def all_slots_bytes(self) -> int:
        """All experts, each in a slot."""
        return self.n_experts * sum(self.slot_bytes)

    @property
    def dense_layer_bytes(self) -> int:
        """The dense part of one layer, on average, rounded up."""
        inner = self.dense_bytes - self.embedding_bytes - self.output_bytes
        return -(-inner // self.shape.n_layers)


def size_of_model(gguf: GgufFile, experts: ExpertMap, slot_bytes: Sequence[int]) -> ModelSize:
    """Return the sizes of a model's parts.

    Args:
        gguf: the model's file or split set.
        experts: of the same file.
        slot_bytes: of one expert of each of the map's layers, in the layout chosen.
    """
    tensors = [tensor for layer in experts.layers for tensor in layer.tensors]
    table = gguf.tensors.get("token_embd.weight")
    shape = ContextShape.of(gguf.metadata, table.n_rows if table else 0)
    loaded = (tensor for tensor in gguf.tensors.values() if layer_of(tensor.name) < shape.n_layers)
    dense, embedding, output = dense_parts(loaded, {tensor.name for tensor in tensors})
    return ModelSize(
        n_experts=experts.n_experts,
        n_experts_used=experts.n_experts_used,
        layers=tuple(layer.index for layer in experts.layers),
        expert_bytes=tuple(layer.expert_bytes for layer in experts.layers),
        slot_bytes=tuple(slot_bytes),
        expert_macs=tuple(sum(tensor.n_in * tensor.n_out for tensor in layer.tensors) for layer in experts.layers),
        largest_slice_bytes=max(tensor.expert_bytes for tensor in tensors),
        dense_bytes=dense,
        embedding_bytes=embedding,
        output_bytes=output,
        file_bytes=gguf.size_bytes,
        shape=shape,
    )


def resident_bytes(tensor: TensorInfo) -> int:
    """Return the most that a dense tensor takes in memory, whichever of ggml's buffer types holds it.

    AMX tiles append 2 or 4 bytes to a block of some types; everything else keeps the file's size.
    """
    extra = _AMX_EXTRA_BYTES.get(tensor.dtype, 0) if len(tensor.shape) == 2 else 0
    return tensor.n_bytes + tensor.n_bytes // GGML_TYPES[tensor.dtype].block_bytes * extra


def dense_parts(tensors: Iterable[TensorInfo], expert_tensors: Set[str]) -> tuple[int, int, int]:
    """Return (dense_bytes, embedding_bytes, output_bytes) of a model's tensors.

    A model without an output matrix computes with a second copy of its embedding.
    """
    dense = [tensor for tensor in tensors if tensor.name not in expert_tensors]
    total = sum(resident_bytes(tensor) for tensor in dense)
    embedding = sum(resident_bytes(tensor) for tensor in dense if tensor.name == "token_embd.weight")
    output = sum(resident_bytes(tensor) for tensor in dense if tensor.name.startswith("output"))
    if not any(tensor.name == "output.weight" for tensor in dense):
        total, output = total + embedding, output + embedding
    return total, embedding, output


def layer_of(name: str) -> int:
    """Return the layer that a tensor belongs to, -1 for those of none."""
    match = re.match(r"blk\.(\d+)\.", name)
    return int(match.group(1)) if match else -1
