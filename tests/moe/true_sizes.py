"""Models at their published shapes as sizing sees them, from the recipe's types: no weights, no files."""

from __future__ import annotations

from functools import cache
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

from quant.ggml_types import GgmlType
from quant.hf_config import HfConfig, read_config
from quant.recipe import OUTPUT_TYPES, RecipeModel, choose_types
from quant.tensor_info import TensorInfo
from quant.tensor_names import map_tensors
from qwenctl.moe.context_memory import ContextShape
from qwenctl.moe.model_size import ModelSize, dense_parts
from tests.quant.true_shapes import TRUE_MODELS, tensor_infos, write_config

_PAGE = 4096


@cache
def true_size(name: str, output: str = "q4_k_m", amx: bool = False) -> ModelSize:
    """Return the sizes of a model of `TRUE_MODELS`; slots in AMX layout take 148 bytes a block of Q4_K, not 144."""
    config, tensors = _tensors(name, output)
    metadata = {
        "general.architecture": "qwen3moe",
        "qwen3moe.block_count": config.n_layers,
        "qwen3moe.embedding_length": config.n_embd,
        "qwen3moe.attention.head_count": config.n_heads,
        "qwen3moe.attention.head_count_kv": config.n_kv_heads,
        "qwen3moe.attention.key_length": config.head_dim,
        "qwen3moe.attention.value_length": config.head_dim,
        "qwen3moe.expert_count": config.n_experts,
        "qwen3moe.expert_used_count": config.n_experts_used,
        "qwen3moe.expert_feed_forward_length": config.n_ff_expert,
    }
    experts = [tensor for tensor in tensors if "_exps" in tensor.name]
    layers = [
        [tensor for tensor in experts if tensor.name.startswith(f"blk.{layer}.")] for layer in range(config.n_layers)
    ]
    expert_bytes = tuple(sum(tensor.n_bytes for tensor in layer) // config.n_experts for layer in layers)
    slot_bytes = tuple(-(-size * (148 if amx else 144) // 144 // _PAGE) * _PAGE for size in expert_bytes)
    dense, embedding, output_bytes = dense_parts(tensors, {tensor.name for tensor in experts})
    return ModelSize(
        n_experts=config.n_experts,
        n_experts_used=config.n_experts_used,
        layers=tuple(range(config.n_layers)),
        expert_bytes=expert_bytes,
        slot_bytes=slot_bytes,
        expert_macs=tuple(sum(prod(tensor.shape[1:]) for tensor in layer) for layer in layers),
        largest_slice_bytes=max(tensor.n_bytes // config.n_experts for tensor in experts),
        dense_bytes=dense,
        embedding_bytes=embedding,
        output_bytes=output_bytes,
        file_bytes=sum(tensor.n_bytes for tensor in tensors),
        shape=ContextShape.of(metadata, config.n_vocab),
    )


def _tensors(name: str, output: str) -> tuple[HfConfig, list[TensorInfo]]:
    values = TRUE_MODELS[name]
    with TemporaryDirectory() as folder:
        config = read_config(write_config(Path(folder), values))
    targets = [(target.name, target.shape) for target in map_tensors(config, tensor_infos(values))]
    model = RecipeModel("qwen3moe", config.n_layers, config.n_experts, config.n_heads, config.n_kv_heads)
    types = choose_types(OUTPUT_TYPES[output], model, targets, has_imatrix=False)
    return config, [_info(tensor, shape, types[tensor]) for tensor, shape in targets]


def _info(name: str, shape: tuple[int, ...], kind: GgmlType) -> TensorInfo:
    return TensorInfo(name, kind.name, shape, Path("model.gguf"), 0, kind.tensor_bytes(shape))
