"""The key-value pairs of the GGUF file, from configuration, tokenizer, chat templates and source.

Keys and value types are those of llama.cpp (gguf-py/gguf/constants.py and the loader in src/llama-model.cpp,
0c1e57098). `general.file_type`, `general.quantization_version` and `general.alignment` depend on the output and are the
plan's. One key is ours: `qwenctl.tokenizer.normalizer`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from quant.chat_templates import DEFAULT
from quant.errors import CheckpointError
from quant.gguf_write import GgufField, GgufValueType
from quant.hf_config import HfConfig
from quant.model_source import ModelSource
from quant.tokenizer import Tokenizer

NORMALIZER_KEY = "qwenctl.tokenizer.normalizer"
"""The value "nfc" says: bring text to Unicode's form C before tokenizing. llama.cpp does not; transformers does."""

_Pairs = Iterator[tuple[str, GgufField]]

# Tokens that llama.cpp takes for ends of a turn by their text, whatever the metadata says (llama-vocab.cpp).
_KNOWN_ENDS = frozenset({"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "</s>"})

_SAMPLING = {
    "temperature": ("temp", GgufValueType.FLOAT32),
    "top_k": ("top_k", GgufValueType.INT32),
    "top_p": ("top_p", GgufValueType.FLOAT32),
    "min_p": ("min_p", GgufValueType.FLOAT32),
    "repetition_penalty": ("penalty_repeat", GgufValueType.FLOAT32),
}

_ID_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # spelled so in llama.cpp
    "pad": "padding_token_id",
    "mask": "mask_token_id",
}


def _count(value: int) -> GgufField:
    return GgufField(GgufValueType.UINT32, value)


def _number(value: float) -> GgufField:
    return GgufField(GgufValueType.FLOAT32, value)


def _text(value: str) -> GgufField:
    return GgufField(GgufValueType.STRING, value)


def model_metadata(
    config: HfConfig, tokenizer: Tokenizer, chat_templates: Mapping[str, str], source: ModelSource
) -> dict[str, GgufField]:
    """Return the pairs in file order: general, hyper-parameters, tokenizer.

    Raises:
        CheckpointError: no token ends a text, so a generation would never stop.
    """
    return dict(
        [
            *_general(config, source),
            *hyper_parameters(config),
            *_tokenizer(config, tokenizer),
            *_chat_templates(chat_templates),
        ]
    )


def _general(config: HfConfig, source: ModelSource) -> _Pairs:
    yield "general.architecture", _text(config.architecture.gguf_name)
    yield "general.type", _text("model")
    for key, value in config.sampling.items():
        name, kind = _SAMPLING[key]
        yield f"general.sampling.{name}", GgufField(kind, int(value) if kind is GgufValueType.INT32 else value)
    yield "general.name", _text(source.name)
    yield "general.size_label", _text(source.size_label)
    for name, text in (
        ("organization", source.organization),
        ("license", source.license),
        ("license.name", source.license_name),
        ("license.link", source.license_link),
        ("source.repo_url", source.repo_url),
    ):
        if text:
            yield f"general.{name}", _text(text)
    yield from _base_models(source)
    for name, texts in (("tags", source.tags), ("languages", source.languages)):
        if texts:
            yield f"general.{name}", GgufField(GgufValueType.STRING, texts)


def _base_models(source: ModelSource) -> _Pairs:
    if source.base_models:
        yield "general.base_model.count", _count(len(source.base_models))
    for i, base in enumerate(source.base_models):
        for name, text in (("name", base.name), ("organization", base.organization), ("repo_url", base.repo_url)):
            if text:
                yield f"general.base_model.{i}.{name}", _text(text)


def hyper_parameters(config: HfConfig) -> _Pairs:
    """Yield what llama.cpp builds its graph by: counts, lengths, positions, experts."""
    arch = config.architecture.gguf_name
    yield f"{arch}.block_count", _count(config.n_layers)
    yield f"{arch}.context_length", _count(config.n_ctx_train)
    yield f"{arch}.embedding_length", _count(config.n_embd)
    yield f"{arch}.feed_forward_length", _count(config.n_ff)
    yield f"{arch}.attention.head_count", _count(config.n_heads)
    yield f"{arch}.attention.head_count_kv", _count(config.n_kv_heads)
    if config.architecture.free_head_dim:  # otherwise llama.cpp derives it
        yield f"{arch}.attention.key_length", _count(config.head_dim)
        yield f"{arch}.attention.value_length", _count(config.head_dim)
    yield f"{arch}.attention.layer_norm_rms_epsilon", _number(config.rms_norm_eps)
    yield f"{arch}.rope.freq_base", _number(config.rope_theta)
    yield from _rope_scaling(config)
    if config.n_experts:
        yield f"{arch}.expert_count", _count(config.n_experts)
        yield f"{arch}.expert_used_count", _count(config.n_experts_used)
        yield f"{arch}.expert_feed_forward_length", _count(config.n_ff_expert)


def _rope_scaling(config: HfConfig) -> _Pairs:
    scaling = config.rope_scaling
    if scaling is None:
        return
    prefix = f"{config.architecture.gguf_name}.rope.scaling"
    yield f"{prefix}.type", _text(scaling.kind)
    yield f"{prefix}.factor", _number(scaling.factor)
    if scaling.original_context is not None:
        yield f"{prefix}.original_context_length", _count(scaling.original_context)
    if scaling.attention_factor is not None:  # llama.cpp reads yarn_attn_factor for two other families only
        yield f"{prefix}.attn_factor", _number(scaling.attention_factor_beside_yarn)


def _tokenizer(config: HfConfig, tokenizer: Tokenizer) -> _Pairs:
    prefix = "tokenizer.ggml"
    yield f"{prefix}.model", _text("gpt2")
    yield f"{prefix}.pre", _text(tokenizer.pre)
    yield f"{prefix}.tokens", GgufField(GgufValueType.STRING, tokenizer.tokens)
    yield f"{prefix}.token_type", GgufField(GgufValueType.INT32, tokenizer.token_types)
    yield f"{prefix}.merges", GgufField(GgufValueType.STRING, tokenizer.merges)
    ids = _special_ids(config, tokenizer)
    for role, key in _ID_KEYS.items():
        if role in ids:
            yield f"{prefix}.{key}", _count(ids[role])
    yield f"{prefix}.add_bos_token", GgufField(GgufValueType.BOOL, tokenizer.add_bos)
    yield f"{prefix}.add_eos_token", GgufField(GgufValueType.BOOL, tokenizer.add_eos)
    if tokenizer.normalizer is not None:
        yield NORMALIZER_KEY, _text(tokenizer.normalizer)


def _special_ids(config: HfConfig, tokenizer: Tokenizer) -> dict[str, int]:
    """Return ids by role: the tokenizer's, then those of config.json; further ends of a turn become eot and eom."""
    ids = dict(tokenizer.special_ids)
    for role, token_id in (("bos", config.bos_token_id), ("pad", config.pad_token_id)):
        if token_id is not None:
            ids.setdefault(role, token_id)
    if config.eos_token_ids:
        ids.setdefault("eos", config.eos_token_ids[0])
    if "eos" not in ids:
        raise CheckpointError(
            "no token ends a text: neither tokenizer_config.json nor config.json names an eos token",
            'add "eos_token_id" to config.json',
        )
    unknown_ends = [
        token_id
        for token_id in config.eos_token_ids
        if token_id != ids["eos"] and tokenizer.tokens[token_id] not in _KNOWN_ENDS
    ]
    return ids | dict(zip(("eot", "eom"), unknown_ends, strict=False))


def _chat_templates(templates: Mapping[str, str]) -> _Pairs:
    named = {re.sub(r"[^A-Za-z0-9]", "_", name): text for name, text in templates.items() if name != DEFAULT}
    for name, text in named.items():
        yield f"tokenizer.chat_template.{name}", _text(text)
    if named:
        yield "tokenizer.chat_templates", GgufField(GgufValueType.STRING, tuple(named))
    if DEFAULT in templates:
        yield "tokenizer.chat_template", _text(templates[DEFAULT])
