"""How much a relative error in a family of tensors costs the model: KLD in nats for each unit of error. A table.

Measured on the demo (scripts/fit_sensitivity.py): one family at a time in Q4_K and in Q3_K, everything else in F32; the
slope between the two, since a part of the divergence is that of quantized activations and depends on no weight type.
A layer's share is the slope divided by the number of layers: each adds about as much to the residual stream. That the
order is the same on large models is published: output, embeddings and attention's v and output are worth most a
weight, ffn_down more than gate and up, q and k least (llama.cpp PR #15550; unsloth's and AesSedai's sweeps). Absolute
values are the demo's: predictions for other models order types, they do not foretell their KLD.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from quant.tensor_families import family_of

_LAYERS: Mapping[str, float] = MappingProxyType(
    {
        "attn_q": 0.032,
        "attn_k": 0.023,
        "attn_v": 0.085,
        "attn_qkv": 0.05,
        "attn_output": 0.124,
        "ffn_gate": 0.067,
        "ffn_up": 0.055,
        "ffn_down": 0.169,
    }
)
"""Summed over all layers. Stacked and shared experts (`_exps`, `_shexp`) are as the dense matrices they stand for."""

_WHOLE: Mapping[str, float] = MappingProxyType({"token_embd": 0.132, "output": 0.483})

_UNKNOWN = 0.12
"""For families that were not measured: as attention's output, so that they rather get a bit too many."""


def sensitivity(tensor_name: str, n_layers: int, *, tied: bool = False) -> float:
    """Return the KLD in nats for a relative squared error of 1 of the tensor's output, for small errors.

    Args:
        tensor_name: of the GGUF.
        n_layers: of the model.
        tied: the embeddings are also the output.
    """
    family = family_of(tensor_name)
    if family in _WHOLE:
        return sum(_WHOLE.values()) if tied else _WHOLE[family]
    return _LAYERS.get(family.removesuffix("_exps").removesuffix("_shexp"), _UNKNOWN) / n_layers
