"""What llama.cpp allocates for a context besides weights: KV cache, states, compute buffer, logits. Formulas on values.

The formulas of the compute buffer were fitted to what llama.cpp 0c1e57098 (llama-cpp-python 0.3.36) reports at true
shapes of qwen3, qwen3moe, llama with experts, deepseek2, qwen3next and qwen35moe, and with single lengths changed
(scripts/check_plan_memory.py holds them against it). Numbers of a token of the micro-batch, all f32; k experts used,
q = n_head × d, kv = n_head_kv × d:

    dense ffn     3 n_ff + 3 n_embd + q                gate, up and their product beside residual, norm, attention
    experts       3 k n_ff + 3 n_embd + q, or 2 k n_ff + 2 k n_embd: down and weighted down of all its experts;
                  beside a shared expert 3 k n_ff + (k + 4) n_embd
    attention     2 q + 2 kv + 3 n_embd, with gates 3 q + 2 kv + 4 n_embd; n_head n_cells scores
    compressed    n_head (2 rank + 2 d) + 4 n_embd     keys and values kept as one vector of `rank` (MLA)
    delta net     9 values + 5 keys + n_embd           linear attention, chunk by chunk
    mask          4 n_cells bytes, with flash attention 2 (f16), through all layers

They take turns in the same memory. Without flash attention the scores are the largest part by far. Errors come from
gaps that ggml's allocator leaves or fills: up to 16 % of a compute buffer too much, at most 4 % too little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quant.ggml_types import GGML_TYPES

_CELLS_PADDING = 256  # llama.cpp rounds the cells of a stream up


@dataclass(frozen=True, slots=True)
class ContextShape:
    """The dimensions of a model that decide what a context takes; where layers differ, the sum or the largest."""

    n_embd: int
    n_head: int
    n_head_kv: int
    n_kv_elements: int  # of K and V of one token in all layers, each: (K, V) summed separately
    n_v_elements: int
    head_dim: int
    n_ff_expert: int
    n_experts: int
    n_experts_used: int
    n_vocab: int
    n_layers: int  # without those for multi-token prediction, which llama.cpp does not load
    n_ff_dense: int = 0  # of layers without experts
    n_ff_shared: int = 0  # of the expert that every token uses
    n_compressed: int = 0  # elements of keys and values kept together (MLA); 0: kept apart
    n_delta_elements: int = 0  # of a token in linear attention: 9 values + 5 keys
    state_bytes: int = 0  # of one sequence in all recurrent layers, however long it is
    n_attention_layers: int | None = None  # layers with cells; None: all

    @classmethod
    def of(cls, metadata: Mapping[str, object], n_vocab: int) -> ContextShape:
        """Read the shape from GGUF metadata; keys that are missing have the defaults of llama.cpp.

        Args:
            metadata: of the (first) file.
            n_vocab: rows of the embedding.
        """
        a = str(metadata["general.architecture"])
        n_predicting = max(0, *_numbers(metadata, f"{a}.nextn_predict_layers", 0))
        n_layers = max(1, *_numbers(metadata, f"{a}.block_count", 1)) - n_predicting
        n_embd = max(_numbers(metadata, f"{a}.embedding_length", 0))
        heads = _numbers(metadata, f"{a}.attention.head_count", 1)
        kv_heads = _numbers(metadata, f"{a}.attention.head_count_kv", max(heads))
        key_length = max(_numbers(metadata, f"{a}.attention.key_length", n_embd // max(1, *heads)))
        value_length = max(_numbers(metadata, f"{a}.attention.value_length", key_length))
        key_mla = max(_numbers(metadata, f"{a}.attention.key_length_mla", 0))
        state = _Recurrent.of(metadata, a, n_layers)
        n_cell_layers = n_layers - state.n_layers
        all_kv_heads = sum(kv_heads) if len(kv_heads) > 1 else kv_heads[0] * n_cell_layers
        n_experts = max(_numbers(metadata, f"{a}.expert_count", 0))
        n_ff = max(_numbers(metadata, f"{a}.feed_forward_length", 0))
        n_ff_expert = max(_numbers(metadata, f"{a}.expert_feed_forward_length", 0)) or n_ff
        return cls(
            n_embd=n_embd,
            n_head=max(heads),
            n_head_kv=max(kv_heads),
            n_kv_elements=all_kv_heads * key_length,
            n_v_elements=0 if key_mla else all_kv_heads * value_length,
            head_dim=key_mla or max(key_length, value_length),
            n_ff_expert=n_ff_expert,
            n_experts=n_experts,
            n_experts_used=max(_numbers(metadata, f"{a}.expert_used_count", 0)),
            n_vocab=n_vocab,
            n_layers=n_layers,
            n_ff_dense=n_ff if not n_experts or f"{a}.leading_dense_block_count" in metadata else 0,
            n_ff_shared=_shared_width(metadata, a, n_ff_expert),
            n_compressed=max(_numbers(metadata, f"{a}.attention.kv_lora_rank", 0)) if key_mla else 0,
            n_delta_elements=state.n_delta_elements,
            state_bytes=state.n_bytes,
            n_attention_layers=n_cell_layers,
        )


HYBRID = ("qwen3next", "qwen35", "qwen35moe")
"""Families with layers of linear attention that are known here, by llama.cpp's names."""

_FULL_ATTENTION_INTERVAL = 4  # of them, where the file does not say


@dataclass(frozen=True, slots=True)
class _Recurrent:
    """Layers that keep a state instead of cells: the convolution's last inputs and a matrix a head, f32."""

    n_layers: int = 0
    n_bytes: int = 0  # of one sequence, all of them
    n_delta_elements: int = 0

    @classmethod
    def of(cls, metadata: Mapping[str, object], a: str, n_layers: int) -> _Recurrent:
        if a not in HYBRID:
            return cls()
        interval = max(_numbers(metadata, f"{a}.full_attention_interval", _FULL_ATTENTION_INTERVAL))
        taps, inner, groups, state = (
            max(_numbers(metadata, f"{a}.ssm.{key}", 0))
            for key in ("conv_kernel", "inner_size", "group_count", "state_size")
        )
        count = n_layers - n_layers // interval
        keys = groups * state
        elements = (taps - 1) * (inner + 2 * keys) + state * inner  # llama_hparams::n_embd_r, n_embd_s
        return cls(count, 4 * elements * count, 9 * inner + 5 * keys)


def _shared_width(metadata: Mapping[str, object], a: str, n_ff_expert: int) -> int:
    width = max(_numbers(metadata, f"{a}.expert_shared_feed_forward_length", 0))
    return width or n_ff_expert * max(_numbers(metadata, f"{a}.expert_shared_count", 0))


def padded_cells(n_cells: int) -> int:
    """Return the cells that llama.cpp makes of `n_cells` of a stream."""
    return -(-n_cells // _CELLS_PADDING) * _CELLS_PADDING


def kv_cache_bytes(shape: ContextShape, n_cells: int, n_streams: int, type_k: str = "f16", type_v: str = "f16") -> int:
    """Return the bytes of the KV cache; it is filled with zeros at once, so all of it is memory.

    With the states of recurrent layers, which have no cells.

    Args:
        n_cells: of each stream.
        n_streams: sequences with cells of their own; 1 where all share them.
        type_k, type_v: ggml's names, in any case.
    """
    k_bytes = _type_bytes(type_k, shape.n_kv_elements)
    v_bytes = _type_bytes(type_v, shape.n_v_elements)
    return n_streams * (padded_cells(n_cells) * (k_bytes + v_bytes) + shape.state_bytes)


def scores_bytes(shape: ContextShape, n_ubatch: int, n_cells: int) -> int:
    """Return the bytes of a micro-batch's attention scores, f32 of all heads; flash attention has none."""
    return 4 * shape.n_head * n_ubatch * padded_cells(n_cells)


def compute_buffer_bytes(shape: ContextShape, n_ubatch: int, n_cells: int, *, flash: bool = False) -> int:
    """Return what a context's compute buffer takes at most, logits left out.

    Args:
        n_ubatch: tokens computed at once.
        n_cells: that one stream's tokens are held against.
        flash: whether attention is computed by flash attention.
    """
    cells = padded_cells(n_cells)
    scores = 0 if flash else shape.n_head * cells
    elements = max(_ffn_elements(shape), _attention_elements(shape) + scores, shape.n_delta_elements + shape.n_embd)
    return min(n_ubatch, cells) * ((2 if flash else 4) * cells + 4 * elements)


def _ffn_elements(shape: ContextShape) -> int:
    k, n_embd, n_ff = shape.n_experts_used, shape.n_embd, shape.n_ff_expert
    beside = 3 * n_embd + shape.n_head * shape.head_dim
    dense = 3 * shape.n_ff_dense + beside
    if not k:
        return dense
    weighted = 3 * k * n_ff + (k + 4) * n_embd if shape.n_ff_shared else 2 * k * (n_ff + n_embd)
    return max(dense, 3 * k * n_ff + beside, weighted)


def _attention_elements(shape: ContextShape) -> int:
    q, kv = shape.n_head * shape.head_dim, shape.n_head_kv * shape.head_dim
    if shape.n_compressed:
        return 2 * shape.n_head * (shape.n_compressed + shape.head_dim) + 4 * shape.n_embd
    if shape.n_delta_elements:  # these families gate the output of their attention
        return 3 * q + 2 * kv + 4 * shape.n_embd
    return 2 * q + 2 * kv + 3 * shape.n_embd


def work_bytes(shape: ContextShape, n_ubatch: int, n_cells: int, *, flash: bool = False) -> int:
    """Return what ggml's CPU kernels take besides: right sides of products in the type of the left ones.

    Experts: tokens in q8, and which of them go to which expert (8 bytes a token, used expert and expert:
    ggml_compute_forward_mul_mat_id). Attention: the scores in f16, to be multiplied by V. Measured at 30B shape without
    flash attention, 2048 cells: 66 MiB in micro-batches of 512, 240 MiB in one of 2048; estimated 77 and 308.

    Args:
        n_ubatch: tokens computed at once.
        n_cells: that one stream's tokens are held against.
        flash: whether attention is computed by flash attention.
    """
    cells, k = padded_cells(n_cells), shape.n_experts_used
    experts = 2 * (k * shape.n_ff_expert + shape.n_embd) + 8 * k * shape.n_experts
    attention = 0 if flash else 2 * shape.n_head * cells
    return min(n_ubatch, cells) * (experts + attention)


def compute_bytes(shape: ContextShape, n_ubatch: int, n_cells: int, *, n_outputs: int = 1, flash: bool = False) -> int:
    """Return compute buffer, work memory and the logits of `n_outputs` tokens: all that computing takes at most."""
    logits = 2 * 4 * shape.n_vocab * n_outputs  # once in the compute buffer, once where they are read
    buffer = compute_buffer_bytes(shape, n_ubatch, n_cells, flash=flash)
    return buffer + work_bytes(shape, n_ubatch, n_cells, flash=flash) + logits


def _type_bytes(name: str, n_elements: int) -> int:
    ggml_type = GGML_TYPES[name.upper()]
    return -(-n_elements // ggml_type.block_weights) * ggml_type.block_bytes


def _numbers(metadata: Mapping[str, object], key: str, default: int) -> list[int]:
    """Return a value that may be one number for all layers or an array with one for each."""
    value = metadata.get(key, default)
    if isinstance(value, np.ndarray):
        return [int(one) for one in value] or [default]
    return [int(value)] if isinstance(value, int) else [default]
