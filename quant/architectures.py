"""The model families we convert: one table each, from Hugging Face's names to those of llama.cpp.

Knows names and shapes only; which values a configuration may have is checked in hf_config.py, and tensor_names.py
applies the tables. Sources: the modeling files of transformers for the left side, src/llama-arch.cpp and
src/models/qwen*.cpp of llama.cpp 0c1e57098 for the right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorPattern:
    """One tensor of the GGUF file and where it comes from.

    `shape` names the lengths of its dimensions in numpy order, as `HfConfig.lengths` knows them. A `source` that holds
    `{expert}` stands for one matrix per expert, to be stacked. `fused` is the newer layout of the same weights, all
    experts in one tensor, of whose rows every expert's `fused_part`-th of `fused_parts` equal parts is meant.
    """

    target: str
    source: str
    shape: tuple[str, ...]
    fused: str | None = None
    fused_part: int = 0
    fused_parts: int = 1


@dataclass(frozen=True, slots=True)
class Architecture:
    """One family. Layer patterns are relative to `model.layers.{layer}.` and `blk.{layer}.`."""

    hf_name: str
    gguf_name: str
    has_experts: bool
    free_head_dim: bool  # False: llama.cpp demands that heads x head_dim be the embedding length
    default_head_dim: int | None  # what transformers takes where head_dim is missing; None: embedding length / heads
    layer_tensors: tuple[TensorPattern, ...]


EMBEDDINGS = TensorPattern("token_embd.weight", "model.embed_tokens.weight", ("n_vocab", "n_embd"))
OUTPUT_NORM = TensorPattern("output_norm.weight", "model.norm.weight", ("n_embd",))
OUTPUT = TensorPattern("output.weight", "lm_head.weight", ("n_vocab", "n_embd"))


def _table(rows: str) -> tuple[TensorPattern, ...]:
    """Read one pattern per line: target, source, dimensions."""
    split = (line.split() for line in rows.strip().splitlines())
    return tuple(TensorPattern(target, source, tuple(shape)) for target, source, *shape in split)


_ATTENTION = _table("""
    attn_norm.weight    input_layernorm.weight     n_embd
    attn_q.weight       self_attn.q_proj.weight    n_q n_embd
    attn_k.weight       self_attn.k_proj.weight    n_kv n_embd
    attn_v.weight       self_attn.v_proj.weight    n_kv n_embd
    attn_output.weight  self_attn.o_proj.weight    n_embd n_q
""")

_BIASES = _table("""
    attn_q.bias         self_attn.q_proj.bias      n_q
    attn_k.bias         self_attn.k_proj.bias      n_kv
    attn_v.bias         self_attn.v_proj.bias      n_kv
""")

_HEAD_NORMS = _table("""
    attn_q_norm.weight  self_attn.q_norm.weight    head_dim
    attn_k_norm.weight  self_attn.k_norm.weight    head_dim
""")

_DENSE_FFN = _table("""
    ffn_norm.weight     post_attention_layernorm.weight  n_embd
    ffn_gate.weight     mlp.gate_proj.weight             n_ff n_embd
    ffn_up.weight       mlp.up_proj.weight               n_ff n_embd
    ffn_down.weight     mlp.down_proj.weight             n_embd n_ff
""")

_GATE_UP = "mlp.experts.gate_up_proj"  # (n_experts, 2 x n_ff_expert, n_embd): the rows of gate, then those of up

_EXPERT_FFN = (
    TensorPattern("ffn_norm.weight", "post_attention_layernorm.weight", ("n_embd",)),
    TensorPattern("ffn_gate_inp.weight", "mlp.gate.weight", ("n_experts", "n_embd")),
    TensorPattern(
        "ffn_gate_exps.weight",
        "mlp.experts.{expert}.gate_proj.weight",
        ("n_experts", "n_ff_expert", "n_embd"),
        _GATE_UP,
        0,
        2,
    ),
    TensorPattern(
        "ffn_up_exps.weight",
        "mlp.experts.{expert}.up_proj.weight",
        ("n_experts", "n_ff_expert", "n_embd"),
        _GATE_UP,
        1,
        2,
    ),
    TensorPattern(
        "ffn_down_exps.weight",
        "mlp.experts.{expert}.down_proj.weight",
        ("n_experts", "n_embd", "n_ff_expert"),
        "mlp.experts.down_proj",
    ),
)

ARCHITECTURES: Mapping[str, Architecture] = {
    entry.hf_name: entry
    for entry in (
        Architecture("Qwen2ForCausalLM", "qwen2", False, False, None, _ATTENTION + _BIASES + _DENSE_FFN),
        Architecture("Qwen3ForCausalLM", "qwen3", False, True, 128, _ATTENTION + _HEAD_NORMS + _DENSE_FFN),
        Architecture("Qwen3MoeForCausalLM", "qwen3moe", True, True, None, _ATTENTION + _HEAD_NORMS + _EXPERT_FFN),
    )
}
