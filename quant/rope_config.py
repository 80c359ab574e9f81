"""How a checkpoint's positions rotate: base and scaling, from both spellings that transformers has used.

Knows nothing of GGUF keys; metadata.py writes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from quant.errors import UnsupportedArchitecture
from quant.json_fields import JsonFields

_DEFAULT_THETA = 10_000.0  # of Qwen2Config, Qwen3Config and Qwen3MoeConfig
_BETA_FAST, _BETA_SLOW = 32.0, 1.0  # llama.cpp's only values for these families: it does not read the keys


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Longer contexts than the model was trained on: positions divided by `factor`, evenly or by frequency (YaRN).

    `attention_factor` multiplies cosine and sine; None is YaRN's own, 0.1 ln(factor) + 1 (arXiv 2309.00071, eq. 22).
    """

    kind: Literal["linear", "yarn"]
    factor: float
    original_context: int | None = None  # tokens; of YaRN
    attention_factor: float | None = None

    @property
    def attention_factor_beside_yarn(self) -> float:
        """What llama.cpp must multiply by, given that it always applies YaRN's own factor (llama-context.cpp)."""
        if self.attention_factor is None:
            return 1.0
        return self.attention_factor / (0.1 * math.log(self.factor) + 1.0)


def read_rope(fields: JsonFields, n_ctx_train: int) -> tuple[float, RopeScaling | None]:
    """Return the base and the scaling.

    transformers 5 writes `rope_parameters` with all of it, earlier ones `rope_theta` and `rope_scaling`.

    Raises:
        JsonFileError: a value of the wrong type or out of bounds.
        UnsupportedArchitecture: a scaling that llama.cpp does not run for these families.
    """
    rope = fields.child("rope_parameters" if fields.has("rope_parameters") else "rope_scaling")
    if rope.has("full_attention"):
        rope = rope.child("full_attention")
    theta = (rope if rope.has("rope_theta") else fields).number("rope_theta", 1.0, 1e15, default=_DEFAULT_THETA)
    kind = rope.text("rope_type" if rope.has("rope_type") else "type", "default")
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", rope.number("factor", 1e-3, 1e6))
    if kind == "yarn":
        return theta, _yarn(rope, n_ctx_train)
    raise UnsupportedArchitecture(
        f"{fields.path}: rope scaling of type {kind!r} is not known", "known types: default, linear, yarn"
    )


def _yarn(rope: JsonFields, n_ctx_train: int) -> RopeScaling:
    original = rope.integer("original_max_position_embeddings", 1, 1 << 30, default=n_ctx_train)
    factor = rope.number("factor", 1.0, 1e6, default=max(1.0, n_ctx_train / original))
    betas = rope.number("beta_fast", 0, 1e6, _BETA_FAST), rope.number("beta_slow", 0, 1e6, _BETA_SLOW)
    if betas != (_BETA_FAST, _BETA_SLOW) or not rope.boolean("truncate", True):
        raise UnsupportedArchitecture(
            f"{rope.path}: YaRN with beta_fast {betas[0]:g}, beta_slow {betas[1]:g} or without truncation is not what "
            f"llama.cpp runs for this family: it takes {_BETA_FAST:g}, {_BETA_SLOW:g} and truncates"
        )
    return RopeScaling("yarn", factor, original, _attention_factor(rope, factor))


def _attention_factor(rope: JsonFields, factor: float) -> float | None:
    """Return the factor stated, directly or by mscale (modeling_rope_utils.py of transformers), or None."""
    for key in ("attention_factor", "attn_factor"):
        if rope.has(key):
            return rope.number(key, 1e-6, 1e6)
    if rope.number("mscale", 0, 1e6, 0.0) and rope.number("mscale_all_dim", 0, 1e6, 0.0):
        grown = [0.1 * rope.number(key, 0, 1e6) * math.log(factor) + 1.0 for key in ("mscale", "mscale_all_dim")]
        return grown[0] / grown[1]
    return None
