"""Which tensor gets which type: llama.cpp's mixtures for twelve output types and two of ours, as one table of rules.

Pure: names and shapes in, types out. The facts are those of src/llama-quant.cpp (llama.cpp 0c1e57098, the build that
llama-cpp-python 0.3.36 carries); tests/quant/test_recipe.py holds every choice against that library's own dry run.
Knows nothing of files, weights or encoders.

How a type is chosen, in this order:

1. vectors, norms, biases and the router stay F32;
2. the first rule of `_RULES` that fits the tensor gives the type, otherwise the output type's default;
3. a row that the type's blocks do not divide falls back to a type with smaller blocks, in the end to F16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from quant.errors import UnsupportedTensor
from quant.ggml_types import GGML_TYPES, GgmlType


@dataclass(frozen=True, slots=True)
class OutputType:
    """What a user can ask for: `q4_k_m` and the like. `ftype_id` is the number in `general.file_type`."""

    name: str
    ftype_id: int
    default: GgmlType
    summary: str

    @property
    def is_quantized(self) -> bool:
        """Tell whether weights are stored in blocks, so that mixtures and fallbacks apply."""
        return self.default.block_weights > 1


STOCK_TYPES: Mapping[str, OutputType] = {
    name: OutputType(name, ftype_id, GGML_TYPES[default], summary)
    for name, ftype_id, default, summary in (
        ("f32", 0, "F32", "no loss, twice the size of the original"),
        ("f16", 1, "F16", "half precision; narrower range than BF16"),
        ("bf16", 32, "BF16", "the original weights, bit for bit"),
        ("q8_0", 7, "Q8_0", "8.5 bits; no measurable loss"),
        ("q6_k", 18, "Q6_K", "6.6 bits; hardly any loss"),
        ("q5_k_m", 17, "Q5_K", "5.7 bits"),
        ("q4_k_m", 15, "Q4_K", "4.8 bits; the usual choice"),
        ("q4_k_s", 14, "Q4_K", "4.6 bits"),
        ("iq4_xs", 30, "IQ4_XS", "4.3 bits; the smallest here, best with an importance matrix"),
        ("iq4_nl", 25, "IQ4_NL", "4.5 bits; rows need only be multiples of 32"),
        ("q4_0", 2, "Q4_0", "4.5 bits; fastest to encode, repacked at load by many CPUs"),
        ("mxfp4_moe", 38, "MXFP4", "experts in MXFP4 (4.25 bits), everything else in Q8_0"),
    )
}
"""llama.cpp's."""

PRESETS: Mapping[str, OutputType] = {
    name: OutputType(name, ftype_id, GGML_TYPES[default], summary)
    for name, ftype_id, default, summary in (
        ("q4_k_m+", 15, "Q4_K", "no larger than q4_k_m, and better: more bits where they count"),
        ("iq4+", 30, "IQ4_XS", "4.3 bits; iq4_xs with more bits where they count"),
    )
}
"""Ours, in types that any llama.cpp reads; `general.file_type` names the nearest of its mixtures."""

OUTPUT_TYPES: Mapping[str, OutputType] = {**STOCK_TYPES, **PRESETS}


def find_output_type(name: str) -> OutputType:
    """Return the output type called `name`, whatever its case.

    Raises:
        UnsupportedTensor: no such type; the hint lists those there are.
    """
    found = OUTPUT_TYPES.get(name.lower())
    if found is None:
        raise UnsupportedTensor(f"unknown output type {name!r}", f"choose one of: {', '.join(OUTPUT_TYPES)}")
    return found


@dataclass(frozen=True, slots=True)
class RecipeModel:
    """What the mixture rules ask of a model besides its tensors."""

    architecture: str  # GGUF name: qwen2, qwen3, qwen3moe
    n_layers: int
    n_experts: int  # 0 for dense models
    n_heads: int
    n_kv_heads: int

    @property
    def heads_per_kv_head(self) -> int:
        """Query heads that share one key/value head (whole division, as llama.cpp does it)."""
        return self.n_heads // self.n_kv_heads if self.n_kv_heads else 0


def choose_types(
    output: OutputType,
    model: RecipeModel,
    tensors: Sequence[tuple[str, tuple[int, ...]]],
    *,
    has_imatrix: bool,
) -> dict[str, GgmlType]:
    """Return the type of each tensor, by name.

    Args:
        output: what was asked for.
        model: the model the tensors belong to.
        tensors: GGUF name and shape (numpy order, columns last) of all tensors of the model: whether `output.weight`
            is among them decides about the embeddings.
        has_imatrix: whether an importance matrix will be used; some mixtures depend on it.
    """
    tied = all(name != "output.weight" for name, _ in tensors)
    return {name: _choose(output, _Place.of(name, shape, model, tied=tied, has_imatrix=has_imatrix))
            for name, shape in tensors}  # fmt: skip


class _Role(Enum):
    """The families the rules speak of. llama.cpp sorts by parts of names; so do we, with the same parts."""

    FIXED = auto()  # never quantized
    EMBEDDINGS = auto()
    OUTPUT = auto()  # also the embeddings of a model that uses them as its output
    ATTN_V = auto()
    ATTN_K = auto()
    ATTN_OUTPUT = auto()
    FFN_DOWN = auto()
    OTHER = auto()


_NAME_PARTS = (
    ("attn_v.weight", _Role.ATTN_V),
    ("attn_k.weight", _Role.ATTN_K),
    ("attn_output.weight", _Role.ATTN_OUTPUT),
    ("ffn_down", _Role.FFN_DOWN),
)


def is_fixed(name: str, shape: tuple[int, ...]) -> bool:
    """Tell whether a tensor stays F32 whatever is asked for: norms, biases, other vectors and the router."""
    return _role_of(name, shape, tied=False) is _Role.FIXED


def _role_of(name: str, shape: tuple[int, ...], *, tied: bool) -> _Role:
    n_dims = len(shape) - next((i for i, length in enumerate(shape) if length > 1), len(shape))  # as ggml_n_dims
    if n_dims < 2 or not name.endswith("weight") or name.endswith("_norm.weight") or "ffn_gate_inp.weight" in name:
        return _Role.FIXED
    if name == "output.weight":
        return _Role.OUTPUT
    if name == "token_embd.weight":
        return _Role.OUTPUT if tied else _Role.EMBEDDINGS
    return next((role for part, role in _NAME_PARTS if part in name), _Role.OTHER)


@dataclass(frozen=True, slots=True)
class _Place:
    """All that a rule may ask about one tensor."""

    role: _Role
    layer: int  # -1 outside the layers
    n_columns: int
    stacked: bool  # one matrix per expert
    model: RecipeModel
    has_imatrix: bool

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], model: RecipeModel, *, tied: bool, has_imatrix: bool) -> _Place:
        layer = int(name.split(".")[1]) if name.startswith("blk.") else -1
        stacked = len(shape) == 3 and shape[0] > 1
        return cls(_role_of(name, shape, tied=tied), layer, shape[-1], stacked, model, has_imatrix)

    @property
    def in_first_eighth(self) -> bool:
        """The first layers, whose errors all later ones inherit."""
        return self.layer < self.model.n_layers // 8

    @property
    def wants_more_bits(self) -> bool:
        """The first eighth, the last eighth, and every third layer between them: the `_M` mixtures."""
        eighth = self.model.n_layers // 8
        return self.in_first_eighth or self.layer >= 7 * self.model.n_layers // 8 or (self.layer - eighth) % 3 == 2


@dataclass(frozen=True, slots=True)
class _Rule:
    """`type_name` for tensors of `role` in the outputs named, if `applies`."""

    role: _Role | None  # None: all but FIXED
    outputs: frozenset[str]
    applies: Callable[[_Place], bool]
    type_name: str


def _rule(
    role: _Role | None, outputs: str, type_name: str, applies: Callable[[_Place], bool] = lambda _: True
) -> _Rule:
    return _Rule(role, frozenset(outputs.split()), applies, type_name)


_BLOCKS = "q8_0 q6_k q5_k_m q4_k_m q4_k_s iq4_xs iq4_nl q4_0 mxfp4_moe"


def _has_eight_experts(place: _Place) -> bool:
    """Mixtral's shape: its small shared attention gets more bits. 128 experts do not count."""
    return place.model.n_experts == 8


def _is_72b(place: _Place) -> bool:
    """80 layers of qwen2 are llama.cpp's type 70B, whose attn_v is an eighth of attn_q."""
    return place.model.architecture == "qwen2" and place.model.n_layers == 80


_RULES: tuple[_Rule, ...] = (
    _rule(_Role.OUTPUT, "q6_k q5_k_m q4_k_m q4_k_s iq4_xs iq4_nl q4_0", "Q6_K"),
    _rule(None, "mxfp4_moe", "Q8_0", lambda place: not place.stacked),
    _rule(_Role.ATTN_V, _BLOCKS, "Q8_0", _has_eight_experts),
    _rule(_Role.ATTN_V, "iq4_nl iq4_xs", "Q5_K", lambda place: place.model.heads_per_kv_head >= 4),
    _rule(_Role.ATTN_V, "q4_k_m q5_k_m", "Q6_K", lambda place: place.wants_more_bits),
    _rule(_Role.ATTN_V, "q4_k_s", "Q5_K", lambda place: place.layer < 4),
    _rule(_Role.ATTN_V, "q4_k_m q4_k_s", "Q5_K", _is_72b),
    _rule(_Role.ATTN_K, _BLOCKS, "Q8_0", _has_eight_experts),
    _rule(_Role.ATTN_OUTPUT, "q4_k_m q4_k_s iq4_xs iq4_nl", "Q5_K", _has_eight_experts),
    _rule(_Role.FFN_DOWN, "q4_k_m q5_k_m", "Q6_K", lambda place: place.wants_more_bits),
    _rule(_Role.FFN_DOWN, "q4_k_s", "Q5_K", lambda place: place.in_first_eighth),
    _rule(_Role.FFN_DOWN, "iq4_nl iq4_xs", "Q5_K", lambda place: place.in_first_eighth and not place.has_imatrix),
    _rule(_Role.FFN_DOWN, "q4_0", "Q4_1", lambda place: place.in_first_eighth and place.has_imatrix),
)


def _is_moe(place: _Place) -> bool:
    return place.model.n_experts > 0


def _always_active(place: _Place) -> bool:
    """Weights that every token of a Mixture-of-Experts uses: few, and worth their bits (quant/sensitivity.py)."""
    return _is_moe(place) and not place.stacked


# What is saved in gate and up (4.25 bits instead of 4.5) pays for ffn_down and for what is always active.
_PRESET_RULES: tuple[_Rule, ...] = (
    _rule(_Role.OUTPUT, "q4_k_m+ iq4+", "Q6_K"),
    _rule(_Role.EMBEDDINGS, "q4_k_m+", "Q4_K"),
    _rule(_Role.EMBEDDINGS, "iq4+", "IQ4_XS"),
    _rule(_Role.ATTN_V, "q4_k_m+", "Q8_0", _is_moe),
    _rule(_Role.ATTN_OUTPUT, "q4_k_m+", "Q8_0", _is_moe),
    _rule(None, "q4_k_m+ iq4+", "Q6_K", _always_active),
    _rule(_Role.ATTN_V, "q4_k_m+ iq4+", "Q6_K"),
    _rule(_Role.ATTN_OUTPUT, "q4_k_m+ iq4+", "Q5_K"),
    _rule(_Role.FFN_DOWN, "q4_k_m+", "Q6_K", lambda place: place.in_first_eighth),
    _rule(_Role.FFN_DOWN, "q4_k_m+", "Q5_K"),
    _rule(_Role.FFN_DOWN, "iq4+", "Q4_K", lambda place: place.in_first_eighth),
    _rule(None, "q4_k_m+", "IQ4_XS"),
)

# Where a row is not a whole number of blocks: first the type on the right, and F16 if that does not divide either.
_SMALLER_BLOCKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}


def _choose(output: OutputType, place: _Place) -> GgmlType:
    if place.role is _Role.FIXED:
        return GGML_TYPES["F32"]
    wanted = next(
        (
            GGML_TYPES[rule.type_name]
            for rule in (*_RULES, *_PRESET_RULES)
            if rule.role in (None, place.role) and output.name in rule.outputs and rule.applies(place)
        ),
        output.default,
    )
    if wanted.divides(place.n_columns):
        return wanted
    smaller = GGML_TYPES[_SMALLER_BLOCKS.get(wanted.name, wanted.name)]
    return smaller if smaller.divides(place.n_columns) else GGML_TYPES["F16"]
