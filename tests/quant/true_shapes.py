"""Configurations of published models, and the names and shapes of their tensors as transformers has them.

The values are those of the models' config.json; the shapes are written down from transformers' modeling files, apart
from the tables under test. `write_config` and `tensor_infos` give what a test of mapping, recipe or plan needs: headers
at true size, no weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from quant.tensor_info import TensorInfo

_COMMON = {
    "hidden_act": "silu",
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}
_DENSE = {"architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128}
_QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "max_position_embeddings": 32768}


def _sizes(hidden: int, layers: int, heads: int, kv_heads: int, width: int, expert_width: int = 0) -> dict[str, Any]:
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
    }
    return sizes | ({"moe_intermediate_size": expert_width} if expert_width else {})


TRUE_MODELS: dict[str, dict[str, Any]] = {
    "Qwen3-235B-A22B": _COMMON | _MOE | _sizes(4096, 94, 64, 4, 12288, 1536),
    "Qwen3-30B-A3B": _COMMON | _MOE | _sizes(2048, 48, 32, 4, 6144, 768),
    "Qwen3-0.6B": _COMMON | _DENSE | _sizes(1024, 28, 16, 8, 3072) | {"tie_word_embeddings": True},
    "Qwen3-8B": _COMMON | _DENSE | _sizes(4096, 36, 32, 8, 12288),
    "Qwen3-32B": _COMMON | _DENSE | _sizes(5120, 64, 64, 8, 25600),
    "Qwen2.5-0.5B": _COMMON | _QWEN2 | _sizes(896, 24, 14, 2, 4864) | {"tie_word_embeddings": True},
    "Qwen2.5-72B": _COMMON | _QWEN2 | _sizes(8192, 80, 64, 8, 29568) | {"vocab_size": 152064},
}
"""config.json by model name, reduced to what matters here. Qwen2.5-0.5B and 72B have rows that 256 does not divide."""

ODD_MODELS: dict[str, dict[str, Any]] = {
    "eight experts": _COMMON | _MOE | _sizes(512, 17, 8, 2, 1024, 256) | {"num_experts": 8, "vocab_size": 512},
    "four heads a key head": _COMMON | _MOE | _sizes(256, 60, 8, 2, 512, 256) | {"num_experts": 16, "vocab_size": 512},
    "rows of 96": _COMMON
    | _MOE
    | _sizes(96, 9, 4, 4, 160, 96)
    | {"num_experts": 4, "num_experts_per_tok": 2, "head_dim": 24, "vocab_size": 512},
    "rows of 100": _COMMON | _DENSE | _sizes(100, 8, 4, 2, 300) | {"head_dim": 50, "vocab_size": 512},
    "rows of 100, tied": _COMMON
    | _DENSE
    | _sizes(100, 8, 4, 2, 512)
    | {"head_dim": 64, "vocab_size": 512, "tie_word_embeddings": True},
    "rows of 800, tied": _COMMON
    | _MOE
    | _sizes(800, 26, 6, 3, 512, 512)
    | {"num_experts": 12, "head_dim": 80, "vocab_size": 512, "tie_word_embeddings": True},
    "one expert": _COMMON
    | _MOE
    | _sizes(256, 4, 4, 2, 256, 256)
    | {"num_experts": 1, "num_experts_per_tok": 1, "vocab_size": 512},
    "one layer": _COMMON | _MOE | _sizes(256, 1, 4, 2, 256, 256) | {"num_experts": 8, "vocab_size": 512},
    "seven layers": _COMMON | _QWEN2 | _sizes(256, 7, 4, 4, 768) | {"vocab_size": 512},
}
"""Shapes that no published model has, to reach every rule and every fallback."""


def hf_shapes(config: Mapping[str, Any], *, fused: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the checkpoint, by its Hugging Face name."""
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        inner = _attention_shapes(config) | (_expert_shapes(config, fused) if "num_experts" in config else _ffn(config))
        inner |= {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
        shapes |= {prefix + name: shape for name, shape in inner.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def _attention_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, heads, kv_heads = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim", hidden // heads)
    rows = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}
    shapes: dict[str, tuple[int, ...]] = {f"self_attn.{x}_proj.weight": (n_rows, hidden) for x, n_rows in rows.items()}
    shapes["self_attn.o_proj.weight"] = (hidden, heads * head_dim)
    if config["architectures"] == ["Qwen2ForCausalLM"]:
        return shapes | {f"self_attn.{x}_proj.bias": (n_rows,) for x, n_rows in rows.items()}
    return shapes | {"self_attn.q_norm.weight": (head_dim,), "self_attn.k_norm.weight": (head_dim,)}


def _ffn(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, width = config["hidden_size"], config["intermediate_size"]
    return {
        "mlp.gate_proj.weight": (width, hidden),
        "mlp.up_proj.weight": (width, hidden),
        "mlp.down_proj.weight": (hidden, width),
    }


def _expert_shapes(config: Mapping[str, Any], fused: bool) -> dict[str, tuple[int, ...]]:
    hidden, width, experts = config["hidden_size"], config["moe_intermediate_size"], config["num_experts"]
    shapes: dict[str, tuple[int, ...]] = {"mlp.gate.weight": (experts, hidden)}
    if fused:
        return shapes | {
            "mlp.experts.gate_up_proj": (experts, 2 * width, hidden),
            "mlp.experts.down_proj": (experts, hidden, width),
        }
    for expert in range(experts):
        shapes |= {
            f"mlp.experts.{expert}.gate_proj.weight": (width, hidden),
            f"mlp.experts.{expert}.up_proj.weight": (width, hidden),
            f"mlp.experts.{expert}.down_proj.weight": (hidden, width),
        }
    return shapes


def tensor_infos(config: Mapping[str, Any], *, fused: bool = False) -> dict[str, TensorInfo]:
    """Return the tensors as a reader of one endless BF16 safetensors file would."""
    infos: dict[str, TensorInfo] = {}
    offset = 0
    for name, shape in hf_shapes(config, fused=fused).items():
        n_bytes = 2 * prod(shape)
        infos[name] = TensorInfo(name, "BF16", shape, Path("model.safetensors"), offset, n_bytes)
        offset += n_bytes
    return infos


def write_config(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write config.json into `folder`, which is made where it is missing; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
