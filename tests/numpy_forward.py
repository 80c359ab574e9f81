"""Qwen3-MoE in numpy, float64, for the inputs of its weights: what measured activations are held against.

Written from the definition of the architecture in transformers (Qwen3MoeForCausalLM), with nothing of the packages
under test. `inputs` yields what every weight of a GGUF file is multiplied with, by its name there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tests.tiny_checkpoint import TinyModel

Array = np.ndarray
_EPSILON, _THETA = 1e-6, 1e6


def inputs(
    model: TinyModel, weights: Mapping[str, Array], tokens: list[int]
) -> Iterator[tuple[str, Array, Array | None]]:
    """Yield (GGUF name, rows (n, columns), experts of the rows (n,) or None) for one sequence from its beginning."""
    x = weights["model.embed_tokens.weight"][tokens].astype(np.float64)
    for layer in range(model.n_layers):
        of = {name.removeprefix(f"model.layers.{layer}."): w for name, w in weights.items() if f".{layer}." in name}
        block = f"blk.{layer}."
        normed = _rms_norm(x, of["input_layernorm.weight"])
        for letter in "qkv":
            yield f"{block}attn_{letter}.weight", normed, None
        mixed = _attention(model, of, normed)
        yield f"{block}attn_output.weight", mixed, None
        x = x + mixed @ of["self_attn.o_proj.weight"].T
        normed = _rms_norm(x, of["post_attention_layernorm.weight"])
        yield f"{block}ffn_gate_inp.weight", normed, None
        chosen, shares = _route(model, normed @ of["mlp.gate.weight"].T)
        rows = np.repeat(normed, model.n_experts_used, axis=0)
        for kind in ("gate", "up"):
            yield f"{block}ffn_{kind}_exps.weight", rows, chosen.ravel()
        hidden = np.stack([_hidden(of, expert, row) for expert, row in zip(chosen.ravel(), rows, strict=True)])
        yield f"{block}ffn_down_exps.weight", hidden, chosen.ravel()
        out = np.stack(
            [of[f"mlp.experts.{e}.down_proj.weight"] @ row for e, row in zip(chosen.ravel(), hidden, strict=True)]
        )
        x = x + (out.reshape(len(x), model.n_experts_used, -1) * shares[:, :, None]).sum(axis=1)
    yield "output.weight", _rms_norm(x, weights["model.norm.weight"]), None


def _rms_norm(x: Array, weight: Array) -> Array:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + _EPSILON) * weight


def _rotate(x: Array) -> Array:
    """Apply rotary positions to (n_tokens, n_heads, head_dim), halves paired."""
    half = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None] * _THETA ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _attention(model: TinyModel, of: Mapping[str, Array], x: Array) -> Array:
    n, group = len(x), model.n_heads // model.n_kv_heads
    q, k, v = ((x @ of[f"self_attn.{c}_proj.weight"].T).reshape(n, -1, model.head_dim) for c in "qkv")
    q = _rotate(_rms_norm(q, of["self_attn.q_norm.weight"]))
    k = _rotate(_rms_norm(k, of["self_attn.k_norm.weight"])).repeat(group, axis=1)
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(model.head_dim)
    scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
    return np.einsum("hqk,khd->qhd", _softmax(scores), v.repeat(group, axis=1)).reshape(n, -1)


def _route(model: TinyModel, logits: Array) -> tuple[Array, Array]:
    """Return the chosen experts and their shares, (n_tokens, n_used) each."""
    probabilities = _softmax(logits)
    chosen = np.argsort(-probabilities, axis=1, kind="stable")[:, : model.n_experts_used]
    shares = np.take_along_axis(probabilities, chosen, axis=1)
    return chosen, shares / shares.sum(axis=1, keepdims=True)


def _hidden(of: Mapping[str, Array], expert: int, row: Array) -> Array:
    gate, up = (of[f"mlp.experts.{expert}.{kind}_proj.weight"] @ row for kind in ("gate", "up"))
    return gate / (1 + np.exp(-gate)) * up


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)
