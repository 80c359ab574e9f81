"""config.json and generation_config.json of a checkpoint, typed and validated.

What llama.cpp cannot run as transformers would is refused here, before a weight is read. Knows nothing of tensors,
tokenizers or GGUF.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quant.architectures import ARCHITECTURES, Architecture
from quant.errors import UnsupportedArchitecture
from quant.json_fields import JsonFields
from quant.json_file import read_json_object
from quant.quantized_checkpoint_config import PackedFormat, read_packed_format
from quant.rope_config import RopeScaling, read_rope

_MAX_CONFIG_BYTES = 4 << 20
_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
_MAX_VOCAB = 1 << 22
_MAX_WIDTH = 1 << 20  # generous: the widest model known has 18432


@dataclass(frozen=True, slots=True)
class HfConfig:
    """A checkpoint's hyper-parameters. Counts and lengths are numbers of weights, positions in tokens."""

    architecture: Architecture
    n_layers: int
    n_ctx_train: int
    n_embd: int
    n_ff: int  # of dense layers; MoE models carry it although no tensor has that length
    n_heads: int
    n_kv_heads: int
    head_dim: int
    head_dim_stated: bool  # whether config.json names it, rather than leaving it to be derived
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    n_vocab: int  # rows of the embeddings; at least as many as the tokenizer has tokens
    tied_embeddings: bool  # the embeddings are the output matrix too
    n_experts: int  # 0 for dense models
    n_experts_used: int
    n_ff_expert: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]  # config.json's first, then those that only generation_config.json names
    pad_token_id: int | None
    sampling: Mapping[str, float] = field(default_factory=dict)  # as generation_config.json names them
    name_or_path: str | None = None
    packed: PackedFormat | None = None  # how weights that are quantized already are stored

    @property
    def lengths(self) -> dict[str, int]:
        """The lengths that the shapes in architectures.py name."""
        return {
            "n_vocab": self.n_vocab,
            "n_embd": self.n_embd,
            "n_q": self.n_heads * self.head_dim,
            "n_kv": self.n_kv_heads * self.head_dim,
            "head_dim": self.head_dim,
            "n_ff": self.n_ff,
            "n_experts": self.n_experts,
            "n_ff_expert": self.n_ff_expert,
        }


def read_config(folder: Path) -> HfConfig:
    """Return the configuration of the checkpoint in `folder`.

    Raises:
        JsonFileError: a file that is missing, malformed, or holds a value of the wrong type or out of bounds.
        UnsupportedArchitecture: a family without a table, or a feature that llama.cpp does not run.
        CheckpointError: the weights are already quantized in a way that cannot be read.
    """
    path = folder / "config.json"
    return parse_config(JsonFields(path, read_json_object(path, _MAX_CONFIG_BYTES)), _generation_fields(folder))


def parse_config(fields: JsonFields, generation: JsonFields) -> HfConfig:
    """Return the configuration that config.json and generation_config.json hold, wherever they were read from.

    Raises: as `read_config`.
    """
    architecture = _architecture(fields)
    _refuse_what_cannot_run(fields, architecture)
    return _config(fields, architecture, generation)


def _architecture(fields: JsonFields) -> Architecture:
    names = fields.raw("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise fields.refuse("architectures", "must be an array that names the model class")
    found = next((ARCHITECTURES[name] for name in names if name in ARCHITECTURES), None)
    if found is None:
        raise UnsupportedArchitecture(
            f"{fields.path}: architecture {', '.join(names)} is not known",
            f"known architectures: {', '.join(ARCHITECTURES)}",
        )
    return found


def _config(fields: JsonFields, architecture: Architecture, generation: JsonFields) -> HfConfig:
    n_embd = fields.integer("hidden_size", 1, _MAX_WIDTH)
    n_heads = fields.integer("num_attention_heads", 1, 4096)
    n_kv_heads = fields.integer("num_key_value_heads", 1, n_heads, default=n_heads)
    if n_heads % n_kv_heads:
        raise fields.refuse("num_attention_heads", f"{n_heads} is not a multiple of num_key_value_heads {n_kv_heads}")
    n_ctx_train = fields.integer("max_position_embeddings", 1, 1 << 30)
    rope_theta, rope_scaling = read_rope(fields, n_ctx_train)
    n_vocab = fields.integer("vocab_size", 1, _MAX_VOCAB)
    n_experts, n_experts_used, n_ff_expert = _experts(fields, architecture)
    return HfConfig(
        architecture=architecture,
        n_layers=fields.integer("num_hidden_layers", 1, _MAX_LAYERS),
        n_ctx_train=n_ctx_train,
        n_embd=n_embd,
        n_ff=fields.integer("intermediate_size", 1, _MAX_WIDTH),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=_head_dim(fields, architecture, n_embd, n_heads),
        head_dim_stated=fields.has("head_dim"),
        rms_norm_eps=fields.number("rms_norm_eps", 0.0, 1.0, default=1e-6),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        n_vocab=n_vocab,
        tied_embeddings=fields.boolean("tie_word_embeddings", False),
        n_experts=n_experts,
        n_experts_used=n_experts_used,
        n_ff_expert=n_ff_expert,
        bos_token_id=next(iter(_token_ids("bos_token_id", n_vocab, fields, generation)), None),
        eos_token_ids=_token_ids("eos_token_id", n_vocab, fields, generation),
        pad_token_id=next(iter(_token_ids("pad_token_id", n_vocab, fields, generation)), None),
        sampling=_sampling(generation),
        name_or_path=fields.text("_name_or_path", "") or None,
        packed=read_packed_format(fields),
    )


def _experts(fields: JsonFields, architecture: Architecture) -> tuple[int, int, int]:
    """Return the number of experts, how many are used, and their width; zeros for dense models."""
    if not architecture.has_experts:
        return 0, 0, 0
    key = "num_experts" if fields.has("num_experts") else "num_local_experts"  # transformers 5 writes the latter
    n_experts = fields.integer(key, 1, _MAX_EXPERTS)
    n_used = fields.integer("num_experts_per_tok", 1, n_experts)
    return n_experts, n_used, fields.integer("moe_intermediate_size", 1, _MAX_WIDTH)


def _head_dim(fields: JsonFields, architecture: Architecture, n_embd: int, n_heads: int) -> int:
    default = architecture.default_head_dim or n_embd // n_heads
    head_dim = fields.integer("head_dim", 2, 4096, default=default)
    if head_dim % 2:
        raise fields.refuse("head_dim", f"must be even, not {head_dim}: positions rotate pairs")
    if not architecture.free_head_dim and n_heads * head_dim != n_embd:
        raise UnsupportedArchitecture(
            f"{fields.path}: {n_heads} heads of {head_dim} do not make hidden_size {n_embd}, "
            f"which llama.cpp demands of {architecture.gguf_name}"
        )
    return head_dim


def _slides(fields: JsonFields) -> bool:
    """Tell whether any layer attends to a window only (Qwen2Config.layer_types of transformers)."""
    layer_types = fields.raw("layer_types")
    if isinstance(layer_types, list):
        return any(kind != "full_attention" for kind in layer_types)
    if not fields.boolean("use_sliding_window", False) or not fields.has("sliding_window"):
        return False
    window = fields.integer("sliding_window", 0, 1 << 30)
    first_layer = fields.integer("max_window_layers", 0, 1 << 20, default=0)
    return first_layer < fields.integer("num_hidden_layers", 1, _MAX_LAYERS) and window < fields.integer(
        "max_position_embeddings", 1, 1 << 30
    )


# What transformers computes and llama.cpp's graphs for these families do not (src/models/qwen2.cpp, qwen3.cpp,
# qwen3moe.cpp): a file would load and talk nonsense, so the checkpoint is refused.
_OBSTACLES: tuple[tuple[Callable[[JsonFields], bool], str], ...] = (
    (lambda fields: fields.text("hidden_act", "silu") != "silu", "an activation other than silu"),
    (_slides, "layers with sliding-window attention"),
    (lambda fields: fields.number("partial_rotary_factor", 0, 1, 1.0) != 1, "a partial rotary embedding"),
    (lambda fields: not fields.boolean("is_causal", True), "attention that is not causal"),
)
_QWEN3_OBSTACLES: tuple[tuple[Callable[[JsonFields], bool], str], ...] = (
    (lambda fields: fields.boolean("attention_bias", False), "biases in the attention (attention_bias)"),
)
_EXPERT_OBSTACLES: tuple[tuple[Callable[[JsonFields], bool], str], ...] = (
    (
        lambda fields: fields.integer("decoder_sparse_step", 1, _MAX_LAYERS, 1) != 1,
        "dense layers (decoder_sparse_step)",
    ),
    (lambda fields: bool(fields.raw("mlp_only_layers")), "dense layers (mlp_only_layers)"),
    (
        lambda fields: not fields.boolean("norm_topk_prob", False),
        "routing weights that are not normalised (norm_topk_prob is not true)",
    ),
)


def _refuse_what_cannot_run(fields: JsonFields, architecture: Architecture) -> None:
    obstacles = _OBSTACLES
    if architecture.gguf_name != "qwen2":
        obstacles += _QWEN3_OBSTACLES
    if architecture.has_experts:
        obstacles += _EXPERT_OBSTACLES
    for is_there, what in obstacles:
        if is_there(fields):
            raise UnsupportedArchitecture(
                f"{fields.path}: the model has {what}, which llama.cpp does not run for {architecture.gguf_name}"
            )


def _generation_fields(folder: Path) -> JsonFields:
    """Return generation_config.json, empty where there is none."""
    path = folder / "generation_config.json"
    return JsonFields(path, read_json_object(path, _MAX_CONFIG_BYTES) if path.exists() else {})


_SAMPLING_BOUNDS = {
    "temperature": (0.0, 100.0),
    "top_k": (0, 1 << 30),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
}


def _sampling(generation: JsonFields) -> dict[str, float]:
    return {key: generation.number(key, *bounds) for key, bounds in _SAMPLING_BOUNDS.items() if generation.has(key)}


def _token_ids(key: str, n_vocab: int, *files: JsonFields) -> tuple[int, ...]:
    """Return the ids under `key`, each once; negative ones mean that there is no such token."""
    found: dict[int, None] = {}
    for fields in files:
        value = fields.raw(key)
        for entry in value if isinstance(value, list) else [value] if value is not None else []:
            if isinstance(entry, bool) or not isinstance(entry, int) or entry >= n_vocab:
                raise fields.refuse(key, f"must hold ids below vocab_size {n_vocab}, not {str(entry)[:40]}")
            if entry >= 0:
                found[entry] = None
    return tuple(found)
