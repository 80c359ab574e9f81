"""Pre-flight of a model in GGUF: find whatever would make llama.cpp abort the process, before it is asked to load.

llama.cpp answers many bad files with an exception, but others with GGML_ASSERT, which no caller can catch. The rules
here are those asserts, in llama-model.cpp, llama-vocab.cpp, llama-hparams.cpp, models/*.cpp and ggml's CPU kernels of
llama.cpp 0c1e57098, each confirmed by a file that kills the process (tests/attacks/malformed_gguf.py). What only makes
llama.cpp refuse with a clean message, an unknown architecture for one, is left to it where it knows better.

    gguf_check.py               kind of file, layers, experts, attention, rope
    gguf_check_vocabulary.py    tokens, their arrays, special ids
    gguf_check_tensors.py       types that have kernels, required tensors and their widths

Only the header is looked at: a few milliseconds, whatever the size of the model.
"""

from __future__ import annotations

import re

from quant.gguf_check_tensors import CHECKED_ARCHITECTURES, ModelShape, check_tensor_shapes, check_tensor_types
from quant.gguf_check_vocabulary import check_vocabulary
from quant.gguf_read import GgufFile
from quant.gguf_values import GgufValues
from quant.shown import shown

MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS

_NOT_MODELS = {"adapter": "a LoRA adapter", "imatrix": "an importance matrix", "mmproj": "a vision projector"}
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")


def check_model(gguf: GgufFile) -> None:
    """Raise if llama.cpp could not load the file, generate text with it, or would abort while doing so.

    Raises:
        GgufError: names the key or the tensor, with the numbers.
    """
    values = GgufValues(gguf)
    kind = values.text("general.type", "model")
    if kind in _NOT_MODELS:
        values.refuse(f"{_NOT_MODELS[kind]}, not a model")
    architecture = _architecture(values)
    if not gguf.tensors:
        values.refuse("it holds no tensors: metadata or a vocabulary alone")
    n_layers = values.count(f"{architecture}.block_count")
    if not 1 <= n_layers <= MAX_LAYERS:
        values.refuse(f"{architecture}.block_count is {n_layers}; llama.cpp takes 1 to {MAX_LAYERS}")
    for name in ("context_length", "embedding_length"):
        if values.count(f"{architecture}.{name}") == 0:
            values.refuse(f"{architecture}.{name} is 0")
    _check_experts(values, architecture, n_layers)
    _check_rope(values, architecture)
    _check_norms(values, architecture)
    n_tokens = check_vocabulary(values)
    check_tensor_types(values, architecture)
    if architecture in CHECKED_ARCHITECTURES:
        check_tensor_shapes(values, architecture, _shape(values, architecture, n_layers, n_tokens))


def _architecture(values: GgufValues) -> str:
    architecture = values.text("general.architecture")
    if not re.fullmatch(r"[\w.-]{1,64}", architecture, re.ASCII):
        values.refuse(f"general.architecture is {shown(architecture)}, which is not a name")
    return architecture


def _check_experts(values: GgufValues, architecture: str, n_layers: int) -> None:
    n_experts = values.count(f"{architecture}.expert_count", 0)
    n_used = values.counts_per_layer(f"{architecture}.expert_used_count", n_layers, 0)
    if n_experts > MAX_EXPERTS:
        values.refuse(f"{architecture}.expert_count is {n_experts}; llama.cpp takes at most {MAX_EXPERTS}")
    if max(n_used) > n_experts or min(n_used) < 0:
        values.refuse(f"{architecture}.expert_used_count is {max(n_used)} of {n_experts} experts")
    if n_experts and not (all(n_used) if architecture in CHECKED_ARCHITECTURES else any(n_used)):
        values.refuse(f"{architecture}.expert_used_count is 0 of {n_experts} experts")
    if architecture == "qwen3moe" and not n_experts:
        values.refuse(f"{architecture}.expert_count is 0")
    n_nextn = values.count(f"{architecture}.nextn_predict_layers", 0)
    if n_nextn > n_layers:
        values.refuse(f"{architecture}.nextn_predict_layers is {n_nextn} of {n_layers} layers")
    _check_expert_groups(values, architecture, n_experts)


def _check_expert_groups(values: GgufValues, architecture: str, n_experts: int) -> None:
    n_groups = values.count(f"{architecture}.expert_group_count", 0)
    n_used = values.count(f"{architecture}.expert_group_used_count", 0)
    if n_groups and n_groups >= n_experts:
        values.refuse(f"{architecture}.expert_group_count is {n_groups} for {n_experts} experts")
    if n_groups > 1 and (n_experts % n_groups or not 0 < n_used < n_groups):
        values.refuse(f"{architecture}: {n_experts} experts in {n_groups} groups of which {n_used} are used")


def _check_rope(values: GgufValues, architecture: str) -> None:
    scaling = values.text(f"{architecture}.rope.scaling.type", "linear")
    if scaling not in _ROPE_SCALINGS:
        values.refuse(f"{architecture}.rope.scaling.type is {shown(scaling)}, not one of {', '.join(_ROPE_SCALINGS)}")
    if values.number(f"{architecture}.rope.freq_base", 10000.0) <= 0:
        values.refuse(f"{architecture}.rope.freq_base is not above 0")
    for name in ("scaling.factor", "scale_linear", "scaling.attn_factor"):
        if values.number(f"{architecture}.rope.{name}", 0.0) < 0:
            values.refuse(f"{architecture}.rope.{name} is below 0")


def _check_norms(values: GgufValues, architecture: str) -> None:
    for name in ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon"):
        if values.number(f"{architecture}.attention.{name}", 0.0) < 0:
            values.refuse(f"{architecture}.attention.{name} is below 0")
    if not values.flag(f"{architecture}.attention.causal", True):
        values.refuse("attention is not causal: an encoder, which cannot generate text")


def _shape(values: GgufValues, architecture: str, n_layers: int, n_tokens: int) -> ModelShape:
    """Hold heads and their widths against what the graphs of CHECKED_ARCHITECTURES assert; return all sizes."""
    width = values.count(f"{architecture}.embedding_length")
    n_heads = values.counts_per_layer(f"{architecture}.attention.head_count", n_layers, 0)
    n_kv_heads = values.counts_per_layer(f"{architecture}.attention.head_count_kv", n_layers, n_heads[0])
    if min(n_heads) < 1 or min(n_kv_heads) < 1:
        values.refuse(f"{architecture}: a layer has {min(n_heads)} heads and {min(n_kv_heads)} key-value heads")
    if any(heads % kv_heads for heads, kv_heads in zip(n_heads, n_kv_heads, strict=True)):
        values.refuse(f"{architecture}: {n_heads[0]} heads cannot share {n_kv_heads[0]} key-value heads evenly")
    if len(set(n_heads)) > 1 or len(set(n_kv_heads)) > 1:
        values.refuse(f"{architecture}: layers differ in their numbers of heads")
    default = width // n_heads[0]
    key_width = values.count(f"{architecture}.attention.key_length", default)
    value_width = values.count(f"{architecture}.attention.value_length", default)
    rotated = values.count(f"{architecture}.rope.dimension_count", key_width)
    if not key_width == value_width == rotated or key_width < 2 or key_width % 2:
        values.refuse(
            f"{architecture}: heads have keys of {key_width}, values of {value_width}, {rotated} of them rotated; "
            "the three must be one even number"
        )
    return ModelShape(
        n_layers=n_layers - values.count(f"{architecture}.nextn_predict_layers", 0),
        n_tokens=n_tokens,
        width=width,
        n_heads=n_heads[0],
        n_kv_heads=n_kv_heads[0],
        head_width=key_width,
        n_experts=values.count(f"{architecture}.expert_count", 0),
    )
