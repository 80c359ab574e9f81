"""What a context longer than the trained one means, said plainly. Pure.

YaRN (Peng et al. 2023, arXiv 2309.00071) stretches rotary positions by a factor: llama.cpp has it, and reads it from
the file's metadata (rope.scaling.*); `qwenctl convert` writes what config.json says. Qwen's cards state it for 4 times
the original context of Qwen3 (32,768 tokens) and for Qwen3-Next and Qwen3.5 from 262,144 up to about a million. For
Qwen3's 2507 models they describe another way to a million tokens, dual chunk attention with sparse attention, which
vLLM and SGLang have and llama.cpp has not.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from quant.model_outline import ModelOutline

_MOST_FACTOR = 4.0


@dataclass(frozen=True, slots=True)
class ContextAdvice:
    """What is to be known of a context.

    Attributes:
        n_ctx_train: that the model was trained for; 0: not said.
        is_trained: whether the one asked for lies within.
        notes: a line each.
    """

    n_ctx_train: int
    is_trained: bool
    notes: tuple[str, ...]


def advise_context(outline: ModelOutline, n_ctx: int) -> ContextAdvice:
    """Return what is to be known of `n_ctx` tokens with a model."""
    trained = outline.number("context_length")
    prefix = f"{outline.architecture}.rope.scaling"
    stated = outline.metadata.get(f"{prefix}.factor")
    factor = float(stated) if isinstance(stated, int | float) else 1.0
    reach = max(trained, int(factor * outline.number("rope.scaling.original_context_length")))
    if not trained or n_ctx <= reach:
        return ContextAdvice(trained, True, ())
    needed = n_ctx / trained
    notes = [f"the model was trained for {trained:,} tokens; {n_ctx:,} are {needed:.3g} times that"]
    if needed <= _MOST_FACTOR:
        notes += [
            f"YaRN with a factor of {ceil(needed * 2) / 2:g} reaches it: set rope_scaling in config.json (rope_type "
            f"yarn, original_max_position_embeddings {trained}) before converting, and llama.cpp follows the file",
            "its factor holds for short texts, too, which get a little worse; far retrieval degrades first: test yours",
        ]
        if outline.architecture in ("qwen3", "qwen3moe") and trained >= 1 << 18:
            notes.append(
                "Qwen states a million tokens for its 2507 models with dual chunk attention (vLLM, SGLang), which "
                "llama.cpp does not have; with YaRN alone nobody has published what such a context is worth"
            )
    else:
        notes.append("beyond four times the trained context YaRN is not stated to work: expect nonsense")
    return ContextAdvice(trained, False, tuple(notes))
