"""Tiny random checkpoints in Hugging Face layout, written with numpy alone: what tests convert and run.

`write_checkpoint(folder, TinyModel(...))` gives Qwen3-MoE (experts one by one or fused), dense Qwen3 or dense Qwen2
with biases; the same seed gives the same bytes, and the fused layout holds the same weights as the one by one. All row
lengths are multiples of 256, so every K-quant applies. `write_safetensors` alone serves tests of single odd files.
Knows nothing of the packages under test.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from tests.tiny_tokenizer import SPECIAL_TOKENS, write_tokenizer

Architecture = Literal["Qwen3MoeForCausalLM", "Qwen3ForCausalLM", "Qwen2ForCausalLM"]
Dtype = Literal["BF16", "F16", "F32"]


@dataclass(frozen=True, slots=True)
class TinyModel:
    """What is to be written. `tied`: no lm_head; `fused_experts`: transformers 5's gate_up_proj layout."""

    architecture: Architecture = "Qwen3MoeForCausalLM"
    fused_experts: bool = False
    tied: bool = False
    dtype: Dtype = "BF16"
    n_shards: int = 2
    n_layers: int = 3
    hidden: int = 256
    n_heads: int = 8
    n_kv_heads: int = 2
    head_dim: int = 64  # n_heads * head_dim is not hidden, as in the large Qwen3-MoE models
    n_experts: int = 8
    n_experts_used: int = 2
    expert_width: int = 256
    dense_width: int = 512
    vocab_size: int = 512  # larger than the tokenizer's: the rest is padding
    n_ctx_train: int = 1024
    seed: int = 0

    @property
    def is_moe(self) -> bool:
        """Whether the feed-forward layers are experts behind a router."""
        return self.architecture == "Qwen3MoeForCausalLM"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it lies in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Round float32 to BF16, to nearest even; returns the upper halves as uint16. Finite values only."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def encode(values: np.ndarray, dtype: Dtype) -> bytes:
    """Return the little-endian bytes of float32 `values` in `dtype`."""
    if dtype == "BF16":
        return to_bf16(values).astype("<u2").tobytes()
    return values.astype("<f2" if dtype == "F16" else "<f4").tobytes()


def write_safetensors(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    dtype: Dtype = "BF16",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write float32 arrays as one safetensors file, all in `dtype`."""
    stored = {name: StoredTensor(dtype, values.shape, encode(values, dtype)) for name, values in tensors.items()}
    write_stored(path, stored, metadata)


def write_stored(path: Path, tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file: u64 header length, JSON padded to 8 bytes, then the data in the order given."""
    header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
    position = 0
    for name, tensor in tensors.items():
        after = position + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, after]}
        position = after
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(tensor.data for tensor in tensors.values()))


def tiny_weights(model: TinyModel) -> dict[str, np.ndarray]:
    """Return the tensors by their Hugging Face names, float32, seeded: {name: (rows, columns) or (columns,)}."""
    random = np.random.default_rng(model.seed)

    def matrix(n_rows: int, n_columns: int, gain: float = 1.0) -> np.ndarray:
        return (random.standard_normal((n_rows, n_columns)) * (gain / n_columns**0.5)).astype(np.float32)

    def norm(n_columns: int) -> np.ndarray:
        return (1 + 0.1 * random.standard_normal(n_columns)).astype(np.float32)

    weights = {"model.embed_tokens.weight": matrix(model.vocab_size, model.hidden, gain=8)}
    for layer in range(model.n_layers):
        prefix = f"model.layers.{layer}."
        q_rows, kv_rows = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
        for letter, n_rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
            weights[f"{prefix}self_attn.{letter}_proj.weight"] = matrix(n_rows, model.hidden)
            if model.architecture == "Qwen2ForCausalLM":
                bias = 0.2 * random.standard_normal(n_rows)
                weights[f"{prefix}self_attn.{letter}_proj.bias"] = bias.astype(np.float32)
        weights[f"{prefix}self_attn.o_proj.weight"] = matrix(model.hidden, q_rows)
        if model.architecture != "Qwen2ForCausalLM":
            weights[f"{prefix}self_attn.q_norm.weight"] = norm(model.head_dim)
            weights[f"{prefix}self_attn.k_norm.weight"] = norm(model.head_dim)
        weights[f"{prefix}input_layernorm.weight"] = norm(model.hidden)
        weights[f"{prefix}post_attention_layernorm.weight"] = norm(model.hidden)
        if model.is_moe:
            spread = np.exp(0.5 * random.standard_normal((model.n_experts, 1)))  # skewed routing, as in trained models
            weights[f"{prefix}mlp.gate.weight"] = (matrix(model.n_experts, model.hidden, 2) * spread).astype(np.float32)
        for owner in [f"experts.{i}." for i in range(model.n_experts)] if model.is_moe else [""]:
            width = model.expert_width if model.is_moe else model.dense_width
            weights[f"{prefix}mlp.{owner}gate_proj.weight"] = matrix(width, model.hidden)
            weights[f"{prefix}mlp.{owner}up_proj.weight"] = matrix(width, model.hidden)
            weights[f"{prefix}mlp.{owner}down_proj.weight"] = matrix(model.hidden, width)
    weights["model.norm.weight"] = norm(model.hidden)
    head = matrix(model.vocab_size, model.hidden, gain=4)
    if not model.tied:
        weights["lm_head.weight"] = head
    return fuse_experts(weights, model) if model.fused_experts else weights


def fuse_experts(weights: Mapping[str, np.ndarray], model: TinyModel) -> dict[str, np.ndarray]:
    """Stack the experts as transformers 5 does: gate_up_proj (E, 2*width, hidden), down_proj (E, hidden, width)."""
    fused = {name: values for name, values in weights.items() if ".mlp.experts." not in name}
    for layer in range(model.n_layers):
        prefix = f"model.layers.{layer}.mlp.experts."
        stacks = {
            part: np.stack([weights[f"{prefix}{expert}.{part}_proj.weight"] for expert in range(model.n_experts)])
            for part in ("gate", "up", "down")
        }
        fused[f"{prefix}gate_up_proj"] = np.concatenate([stacks["gate"], stacks["up"]], axis=1)
        fused[f"{prefix}down_proj"] = stacks["down"]
    return fused


def tiny_config(model: TinyModel) -> dict[str, object]:
    """Return config.json as `transformers` writes it for this family."""
    config: dict[str, object] = {
        "architectures": [model.architecture],
        "attention_bias": model.architecture == "Qwen2ForCausalLM",
        "attention_dropout": 0.0,
        "bos_token_id": SPECIAL_TOKENS["<|endoftext|>"],
        "eos_token_id": SPECIAL_TOKENS["<|im_end|>"],
        "hidden_act": "silu",
        "hidden_size": model.hidden,
        "initializer_range": 0.02,
        "intermediate_size": model.dense_width,
        "max_position_embeddings": model.n_ctx_train,
        "num_attention_heads": model.n_heads,
        "num_hidden_layers": model.n_layers,
        "num_key_value_heads": model.n_kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": model.tied,
        "torch_dtype": {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[model.dtype],
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": model.vocab_size,
    }
    if model.architecture != "Qwen2ForCausalLM":
        config["head_dim"] = model.head_dim
    if not model.is_moe:
        return config | {"model_type": "qwen3" if model.architecture == "Qwen3ForCausalLM" else "qwen2"}
    return config | {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": model.expert_width,
        "norm_topk_prob": True,
        "num_experts": model.n_experts,
        "num_experts_per_tok": model.n_experts_used,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
    }


def write_checkpoint(folder: Path, model: TinyModel | None = None) -> Path:
    """Write a complete checkpoint into `folder` (made if missing) and return it."""
    model = model or TinyModel()
    if model.architecture == "Qwen2ForCausalLM" and model.n_heads * model.head_dim != model.hidden:
        raise ValueError("Qwen2 has no head_dim: n_heads * head_dim must be hidden")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(tiny_config(model), indent=2) + "\n")
    write_tokenizer(folder)
    _write_shards(folder, tiny_weights(model), model)
    return folder


def _write_shards(folder: Path, weights: Mapping[str, np.ndarray], model: TinyModel) -> None:
    names = sorted(weights)
    if model.n_shards == 1:
        write_safetensors(folder / "model.safetensors", {name: weights[name] for name in names}, model.dtype)
        return
    cuts = [round(i * len(names) / model.n_shards) for i in range(model.n_shards + 1)]
    weight_map: dict[str, str] = {}
    for number, (first, after) in enumerate(pairwise(cuts), start=1):
        file_name = f"model-{number:05}-of-{model.n_shards:05}.safetensors"
        write_safetensors(folder / file_name, {name: weights[name] for name in names[first:after]}, model.dtype)
        weight_map |= dict.fromkeys(names[first:after], file_name)
    n_weights = sum(values.size for values in weights.values())
    index = {
        "metadata": {"total_size": n_weights * (4 if model.dtype == "F32" else 2)},
        "weight_map": weight_map,
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
