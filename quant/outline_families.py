"""Families that llama.cpp runs and `convert` does not know: what their GGUF files hold, from config.json. For plans.

Tables of names, shapes and keys, as src/models/{llama,deepseek2,qwen3next,qwen35,qwen35moe}.cpp of llama.cpp 0c1e57098
read them and its conversion/*.py write them. Layers for multi-token prediction are left out: llama.cpp does not load
them. Knows nothing of weights and of how anything is converted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from quant.json_fields import JsonFields

_MOST = 1 << 24

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Draft:
    """Metadata and shapes of the file."""

    metadata: Mapping[str, int | float | str]
    shapes: Mapping[str, tuple[int, ...]]


def draft_of(fields: JsonFields) -> Draft | None:
    """Return what the model's GGUF file would hold; None: the family is not known.

    Raises:
        JsonFileError: values that are missing or out of bounds.
    """
    names = fields.raw("architectures")
    inner = fields.child("text_config") if fields.has("text_config") else fields
    for name in names if isinstance(names, list) else ():
        if name in _FAMILIES:
            return _FAMILIES[name](inner)
    return None


def _count(fields: JsonFields, key: str, default: int | None = None) -> int:
    return fields.integer(key, 0, _MOST, default)


def _ends(fields: JsonFields) -> tuple[Shapes, Shapes]:
    """Return the tensors before the layers and those after."""
    n_vocab, n_embd = _count(fields, "vocab_size"), _count(fields, "hidden_size")
    last: Shapes = {"output_norm.weight": (n_embd,)}
    if not fields.boolean("tie_word_embeddings", False):
        last["output.weight"] = (n_vocab, n_embd)
    return {"token_embd.weight": (n_vocab, n_embd)}, last


def _swiglu(suffix: str, n_embd: int, n_ff: int, *stack: int) -> Shapes:
    return {
        f"ffn_gate{suffix}.weight": (*stack, n_ff, n_embd),
        f"ffn_up{suffix}.weight": (*stack, n_ff, n_embd),
        f"ffn_down{suffix}.weight": (*stack, n_embd, n_ff),
    }


def _draft(architecture: str, fields: JsonFields, keys: Mapping[str, int | float], layers: list[Shapes]) -> Draft:
    first, last = _ends(fields)
    shapes = dict(first)
    for index, layer in enumerate(layers):
        shapes |= {f"blk.{index}.{name}": shape for name, shape in layer.items()}
    usual: dict[str, int | float] = {
        "block_count": len(layers),
        "context_length": _count(fields, "max_position_embeddings"),
        "embedding_length": _count(fields, "hidden_size"),
        "attention.head_count": _count(fields, "num_attention_heads"),
        "attention.layer_norm_rms_epsilon": fields.number("rms_norm_eps", 0.0, 1.0, 1e-6),
    }
    named = {f"{architecture}.{key}": value for key, value in {**usual, **keys}.items()}
    return Draft({"general.architecture": architecture, **named}, {**shapes, **last})


def _llama(fields: JsonFields) -> Draft:
    """LlamaForCausalLM, MistralForCausalLM, MixtralForCausalLM."""
    n_embd, n_head = _count(fields, "hidden_size"), _count(fields, "num_attention_heads")
    n_kv_head, n_ff = _count(fields, "num_key_value_heads", n_head), _count(fields, "intermediate_size")
    head_dim, n_experts = _count(fields, "head_dim", n_embd // n_head), _count(fields, "num_local_experts", 0)
    layer: Shapes = {
        "attn_norm.weight": (n_embd,),
        "attn_q.weight": (n_head * head_dim, n_embd),
        "attn_k.weight": (n_kv_head * head_dim, n_embd),
        "attn_v.weight": (n_kv_head * head_dim, n_embd),
        "attn_output.weight": (n_embd, n_head * head_dim),
        "ffn_norm.weight": (n_embd,),
    }
    if n_experts:
        layer |= {"ffn_gate_inp.weight": (n_experts, n_embd), **_swiglu("_exps", n_embd, n_ff, n_experts)}
    else:
        layer |= _swiglu("", n_embd, n_ff)
    keys = {
        "attention.head_count_kv": n_kv_head,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "feed_forward_length": n_ff,
        "rope.dimension_count": head_dim,
    }
    if n_experts:
        keys |= {"expert_count": n_experts, "expert_used_count": _count(fields, "num_experts_per_tok")}
    return _draft("llama", fields, keys, [layer] * _count(fields, "num_hidden_layers"))


def _deepseek(fields: JsonFields) -> Draft:
    """DeepseekV3ForCausalLM: attention whose keys and values are kept compressed (MLA)."""
    n_embd, n_head = _count(fields, "hidden_size"), _count(fields, "num_attention_heads")
    q_rank, kv_rank = _count(fields, "q_lora_rank"), _count(fields, "kv_lora_rank")
    rope, nope = _count(fields, "qk_rope_head_dim"), _count(fields, "qk_nope_head_dim")
    value, n_ff_expert = _count(fields, "v_head_dim"), _count(fields, "moe_intermediate_size")
    n_experts, n_dense = _count(fields, "n_routed_experts"), _count(fields, "first_k_dense_replace")
    n_ff, n_shared = _count(fields, "intermediate_size"), _count(fields, "n_shared_experts")
    attention: Shapes = {
        "attn_norm.weight": (n_embd,),
        "attn_q_a_norm.weight": (q_rank,),
        "attn_kv_a_norm.weight": (kv_rank,),
        "attn_q_a.weight": (q_rank, n_embd),
        "attn_q_b.weight": (n_head * (nope + rope), q_rank),
        "attn_kv_a_mqa.weight": (kv_rank + rope, n_embd),
        "attn_k_b.weight": (n_head, kv_rank, nope),
        "attn_v_b.weight": (n_head, value, kv_rank),
        "attn_output.weight": (n_embd, n_head * value),
        "ffn_norm.weight": (n_embd,),
    }
    experts = {
        "ffn_gate_inp.weight": (n_experts, n_embd),
        "exp_probs_b.bias": (n_experts,),
        **_swiglu("_exps", n_embd, n_ff_expert, n_experts),
        **_swiglu("_shexp", n_embd, n_ff_expert * n_shared),
    }
    dense, n_layers = _swiglu("", n_embd, n_ff), _count(fields, "num_hidden_layers")
    keys: dict[str, int | float] = {
        "attention.head_count_kv": 1,
        "attention.key_length": kv_rank + rope,
        "attention.value_length": kv_rank,
        "attention.key_length_mla": nope + rope,
        "attention.value_length_mla": value,
        "attention.q_lora_rank": q_rank,
        "attention.kv_lora_rank": kv_rank,
        "rope.dimension_count": rope,
        "feed_forward_length": n_ff,
        "leading_dense_block_count": n_dense,
        "expert_count": n_experts,
        "expert_used_count": _count(fields, "num_experts_per_tok"),
        "expert_feed_forward_length": n_ff_expert,
        "expert_shared_count": n_shared,
        "expert_gating_func": 2,
    }
    layers = [attention | (dense if i < n_dense else experts) for i in range(n_layers)]
    return _draft("deepseek2", fields, keys, layers)


def _hybrid(architecture: str, *, split_gates: bool) -> Callable[[JsonFields], Draft]:
    """Three layers of linear attention (gated delta net) to one of full attention: Qwen3-Next, Qwen3.5."""

    def draft(fields: JsonFields) -> Draft:
        n_embd, interval = _count(fields, "hidden_size"), _count(fields, "full_attention_interval", 4)
        n_layers, n_experts = _count(fields, "num_hidden_layers"), _count(fields, "num_experts", 0)
        norms: Shapes = {"attn_norm.weight": (n_embd,), "post_attention_norm.weight": (n_embd,)}
        full = norms | _gated_attention(fields, n_embd)
        linear = norms | _delta_net(fields, n_embd, split_gates=split_gates)
        ffn = _sparse_ffn(fields, n_embd, n_experts) if n_experts else _swiglu("", n_embd, _dense_width(fields))
        layers = [(full if (i + 1) % interval == 0 else linear) | ffn for i in range(n_layers)]
        return _draft(architecture, fields, _hybrid_keys(fields, n_experts, interval), layers)

    return draft


def _dense_width(fields: JsonFields) -> int:
    return _count(fields, "intermediate_size", 0)


def _gated_attention(fields: JsonFields, n_embd: int) -> Shapes:
    n_head, n_kv, head_dim = (_count(fields, key) for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    return {
        "attn_q.weight": (2 * n_head * head_dim, n_embd),  # queries and their gates
        "attn_k.weight": (n_kv * head_dim, n_embd),
        "attn_v.weight": (n_kv * head_dim, n_embd),
        "attn_output.weight": (n_embd, n_head * head_dim),
        "attn_q_norm.weight": (head_dim,),
        "attn_k_norm.weight": (head_dim,),
    }


def _delta_net(fields: JsonFields, n_embd: int, *, split_gates: bool) -> Shapes:
    n_value_heads, head_dim = _count(fields, "linear_num_value_heads"), _count(fields, "linear_key_head_dim")
    keys = _count(fields, "linear_num_key_heads") * head_dim
    values = n_value_heads * _count(fields, "linear_value_head_dim")
    gates: Shapes = {"ssm_ba.weight": (2 * n_value_heads, n_embd)}
    if split_gates:
        gates = {"ssm_beta.weight": (n_value_heads, n_embd), "ssm_alpha.weight": (n_value_heads, n_embd)}
    return gates | {
        "attn_qkv.weight": (2 * keys + values, n_embd),
        "attn_gate.weight": (values, n_embd),
        "ssm_conv1d.weight": (2 * keys + values, _count(fields, "linear_conv_kernel_dim")),
        "ssm_dt.bias": (n_value_heads,),
        "ssm_a": (n_value_heads,),
        "ssm_norm.weight": (head_dim,),
        "ssm_out.weight": (n_embd, values),
    }


def _sparse_ffn(fields: JsonFields, n_embd: int, n_experts: int) -> Shapes:
    n_shared = _count(fields, "shared_expert_intermediate_size")
    return {
        "ffn_gate_inp.weight": (n_experts, n_embd),
        **_swiglu("_exps", n_embd, _count(fields, "moe_intermediate_size"), n_experts),
        "ffn_gate_inp_shexp.weight": (n_embd,),
        **_swiglu("_shexp", n_embd, n_shared),
    }


def _hybrid_keys(fields: JsonFields, n_experts: int, interval: int) -> dict[str, int | float]:
    head_dim = _count(fields, "head_dim")
    keys: dict[str, int | float] = {
        "attention.head_count_kv": _count(fields, "num_key_value_heads"),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim // 4,
        "full_attention_interval": interval,
        "ssm.conv_kernel": _count(fields, "linear_conv_kernel_dim"),
        "ssm.state_size": _count(fields, "linear_key_head_dim"),
        "ssm.group_count": _count(fields, "linear_num_key_heads"),
        "ssm.time_step_rank": _count(fields, "linear_num_value_heads"),
        "ssm.inner_size": _count(fields, "linear_num_value_heads") * _count(fields, "linear_value_head_dim"),
        "feed_forward_length": _dense_width(fields),
    }
    if n_experts:
        keys |= {
            "expert_count": n_experts,
            "expert_used_count": _count(fields, "num_experts_per_tok"),
            "expert_feed_forward_length": _count(fields, "moe_intermediate_size"),
            "expert_shared_feed_forward_length": _count(fields, "shared_expert_intermediate_size"),
        }
    return keys


_FAMILIES: Mapping[str, Callable[[JsonFields], Draft]] = {
    **dict.fromkeys(("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"), _llama),
    "DeepseekV3ForCausalLM": _deepseek,
    "Qwen3NextForCausalLM": _hybrid("qwen3next", split_gates=False),
    **dict.fromkeys(
        ("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"), _hybrid("qwen35moe", split_gates=True)
    ),
    **dict.fromkeys(("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"), _hybrid("qwen35", split_gates=True)),
}
