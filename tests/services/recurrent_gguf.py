"""Tiny random models whose memory is not all that was said: recurrent, hybrid, with a sliding window."""

from __future__ import annotations

import numpy as np

from tests.tiny_gguf import ARRAY, F32, I32, STRING, U32, TinyGguf, TinyTensor


def mamba() -> TinyGguf:
    """A recurrent model: 2 layers of Mamba, 64 wide. Tensors as in llama.cpp's models/mamba.cpp."""
    tiny = TinyGguf.of("qwen3")
    tokenizer = {key: value for key, value in tiny.pairs.items() if key.startswith("tokenizer.")}
    counts = {
        "block_count": 2,
        "context_length": 128,
        "embedding_length": 64,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 128,
        "ssm.state_size": 16,
        "ssm.time_step_rank": 4,
    }
    tiny.pairs = {
        "general.architecture": (STRING, "mamba"),
        "mamba.attention.layer_norm_rms_epsilon": (F32, 1e-6),
        **{f"mamba.{key}": (U32, count) for key, count in counts.items()},
        **tokenizer,
    }
    tiny.tensors = {name: tiny.tensors[name] for name in ("token_embd.weight", "output_norm.weight")}
    for layer in range(2):
        tiny.tensors |= {f"blk.{layer}.{name}": tensor for name, tensor in _mamba_layer().items()}
    return tiny


def jamba() -> TinyGguf:
    """A hybrid: a layer of Mamba and one with attention. Tensors as in llama.cpp's models/jamba.cpp."""
    tiny, attention = mamba(), TinyGguf.of("qwen2").tensors
    tiny.pairs = {key.replace("mamba.", "jamba."): value for key, value in tiny.pairs.items()}
    tiny.pairs |= {
        "general.architecture": (STRING, "jamba"),
        "jamba.feed_forward_length": (U32, 96),
        "jamba.attention.head_count": (U32, 2),
        "jamba.attention.head_count_kv": (ARRAY, (I32, [0, 1])),
    }
    kept = {name: tensor for name, tensor in tiny.tensors.items() if not name.startswith("blk.1.")}
    norms = {"ssm_dt_norm.weight": 4, "ssm_b_norm.weight": 16, "ssm_c_norm.weight": 16}
    kept |= {f"blk.0.{name}": TinyTensor((width,)) for name, width in norms.items()}
    kept |= {name: tensor for name, tensor in attention.items() if name.startswith("blk.1.") and "bias" not in name}
    kept |= {name: tensor for name, tensor in attention.items() if name.startswith("blk.0.ffn")}
    tiny.tensors = kept
    return tiny


def windowed() -> TinyGguf:
    """Attention of which three layers in four see 32 tokens. Tensors as in llama.cpp's models/olmo2.cpp."""
    tiny = TinyGguf.of("qwen3")
    tiny.pairs = {key.replace("qwen3.", "olmo2."): value for key, value in tiny.pairs.items()}
    tiny.pairs |= {
        "general.architecture": (STRING, "olmo2"),
        "olmo2.block_count": (U32, 4),
        "olmo2.attention.sliding_window": (U32, 32),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "attn_q.weight": (64, 64),
        "attn_k.weight": (32, 64),
        "attn_v.weight": (32, 64),
        "attn_output.weight": (64, 64),
        "attn_q_norm.weight": (64,),
        "attn_k_norm.weight": (32,),
        "post_attention_norm.weight": (64,),
        "ffn_gate.weight": (96, 64),
        "ffn_up.weight": (96, 64),
        "ffn_down.weight": (64, 96),
        "post_ffw_norm.weight": (64,),
    }
    tiny.tensors = {name: tiny.tensors[name] for name in ("token_embd.weight", "output_norm.weight")}
    tiny.tensors["output.weight"] = TinyTensor(tiny.tensors["token_embd.weight"].shape)
    for layer in range(4):
        tiny.tensors |= {f"blk.{layer}.{name}": TinyTensor(shape) for name, shape in shapes.items()}
    return tiny


def _mamba_layer() -> dict[str, TinyTensor]:
    decay = -np.ones((128, 16), "<f4")  # a positive one would grow without end
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (64,),
        "ssm_in.weight": (256, 64),
        "ssm_conv1d.weight": (128, 4),
        "ssm_conv1d.bias": (128,),
        "ssm_x.weight": (36, 128),
        "ssm_dt.weight": (128, 4),
        "ssm_dt.bias": (128,),
        "ssm_d": (128,),
        "ssm_out.weight": (64, 128),
    }
    return {name: TinyTensor(shape) for name, shape in shapes.items()} | {
        "ssm_a": TinyTensor(decay.shape, data=decay.tobytes())
    }
