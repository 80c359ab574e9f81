"""One decoder layer of Qwen2, Qwen3 or Qwen3-MoE in numpy, f64, written from transformers' modeling files.

What a layer computes must not change when a norm or a projection is divided and what follows is multiplied. Slow.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests.tiny_checkpoint import TinyModel

Weights = Mapping[str, np.ndarray]


def layer_output(x: np.ndarray, weights: Weights, model: TinyModel, layer: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the layer's output (n_tokens, hidden) and the router's logits (n_tokens, n_experts), empty if dense."""
    own = {
        name.removeprefix(f"model.layers.{layer}.").removesuffix(".weight"): values.astype(np.float64)
        for name, values in weights.items()
        if name.startswith(f"model.layers.{layer}.")
    }
    x = x + _attention(_rms(x, own["input_layernorm"]), own, model)
    normed = _rms(x, own["post_attention_layernorm"])
    if not model.is_moe:
        return x + _mlp(normed, own, "mlp."), np.empty((len(x), 0))
    logits = normed @ own["mlp.gate"].T
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, : model.n_experts_used]
    shares = np.exp(np.take_along_axis(logits, chosen, axis=1))
    shares /= shares.sum(axis=1, keepdims=True)
    out = x.copy()
    for token in range(len(x)):
        for expert, share in zip(chosen[token], shares[token], strict=True):
            out[token] += share * _mlp(normed[token : token + 1], own, f"mlp.experts.{expert}.")[0]
    return out, logits


def _rms(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-6) * weight


def _mlp(x: np.ndarray, own: Weights, prefix: str) -> np.ndarray:
    gate, up = x @ own[f"{prefix}gate_proj"].T, x @ own[f"{prefix}up_proj"].T
    return (gate / (1 + np.exp(-gate)) * up) @ own[f"{prefix}down_proj"].T


def _attention(x: np.ndarray, own: Weights, model: TinyModel) -> np.ndarray:
    """Causal attention; rotary positions are left out, which no scaling meets."""
    n, d = len(x), model.head_dim
    q, k, v = (
        (x @ own[f"self_attn.{letter}_proj"].T + own.get(f"self_attn.{letter}_proj.bias", 0.0)).reshape(n, -1, d)
        for letter in "qkv"
    )
    if "self_attn.q_norm" in own:
        q, k = _rms(q, own["self_attn.q_norm"]), _rms(k, own["self_attn.k_norm"])
    repeats = model.n_heads // model.n_kv_heads
    k, v = np.repeat(k, repeats, axis=1), np.repeat(v, repeats, axis=1)
    scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(d)
    scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
    shares = np.exp(scores - scores.max(axis=2, keepdims=True))
    shares /= shares.sum(axis=2, keepdims=True)
    return np.einsum("hij,jhd->ihd", shares, v).reshape(n, -1) @ own["self_attn.o_proj"].T
