"""What llama.cpp allocates for a context besides weights: KV cache, compute buffer, logits. Formulas on values.

The formulas of the compute buffer were fitted to what llama.cpp 0c1e57098 (llama-cpp-python 0.3.36) reports for
qwen3moe at the shapes of 30B-A3B and 235B-A22B, 256 to 32768 cells, micro-batches of 64 to 4096, one and eight streams,
with and without flash attention: exact to a MiB with flash attention or with 2048 cells and more, and up to 8 % too
much below. Bytes of a token of the micro-batch, everything f32, k experts used:

    experts     4 (2 k n_embd + 2 k n_ff)        down, weighted down, gate and up of all its experts
    attention   4 (n_head n_cells + 3 n_head d + 2 n_head_kv d + n_embd)     scores, Q three times, K, V, residual
    mask        4 n_cells, with flash attention 2 n_cells (f16), through all layers

Experts and attention take turns in the same memory. Without flash attention the scores are the largest part by far.
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
        all_kv_heads = sum(kv_heads) if len(kv_heads) > 1 else kv_heads[0] * n_layers
        widths = _numbers(metadata, f"{a}.expert_feed_forward_length", 0)
        if not max(widths):
            widths = _numbers(metadata, f"{a}.feed_forward_length", 0)
        return cls(
            n_embd=n_embd,
            n_head=max(heads),
            n_head_kv=max(kv_heads),
            n_kv_elements=all_kv_heads * key_length,
            n_v_elements=all_kv_heads * value_length,
            head_dim=max(key_length, value_length),
            n_ff_expert=max(widths),
            n_experts=max(_numbers(metadata, f"{a}.expert_count", 0)),
            n_experts_used=max(_numbers(metadata, f"{a}.expert_used_count", 0)),
            n_vocab=n_vocab,
            n_layers=n_layers,
        )


def padded_cells(n_cells: int) -> int:
    """Return the cells that llama.cpp makes of `n_cells` of a stream."""
    return -(-n_cells // _CELLS_PADDING) * _CELLS_PADDING


def kv_cache_bytes(shape: ContextShape, n_cells: int, n_streams: int, type_k: str = "f16", type_v: str = "f16") -> int:
    """Return the bytes of the KV cache; it is filled with zeros at once, so all of it is memory.

    Models with recurrent layers take less than this: those layers have a state instead of cells.

    Args:
        n_cells: of each stream.
        n_streams: sequences with cells of their own; 1 where all share them.
        type_k, type_v: ggml's names, in any case.
    """
    k_bytes = _type_bytes(type_k, shape.n_kv_elements)
    v_bytes = _type_bytes(type_v, shape.n_v_elements)
    return padded_cells(n_cells) * n_streams * (k_bytes + v_bytes)


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
    cells, k = padded_cells(n_cells), shape.n_experts_used
    experts = 4 * (2 * k * shape.n_embd + 2 * k * shape.n_ff_expert)
    projections = 3 * shape.n_head * shape.head_dim + 2 * shape.n_head_kv * shape.head_dim + shape.n_embd
    attention = 4 * (projections + (0 if flash else shape.n_head * cells))
    mask = (2 if flash else 4) * cells
    return min(n_ubatch, cells) * (mask + max(experts, attention))


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
