"""Whether llama.cpp by itself is to compute attention with its flash kernel. Pure; `run` and `plan` both ask.

On a CPU not, as long as the matrix of attention scores stays below a GiB: see services/native_model.py for why.
"""

from __future__ import annotations

MOST_SCORES_BYTES = 1 << 30  # of a micro-batch, f32, all heads
FLOAT_CACHES = ("f32", "f16", "bf16")  # types of V that attention without the flash kernel can multiply with


def flash_is_better(n_heads: int, n_tokens: int, n_cells: int, type_v: str, *, cpu_only: bool) -> bool:
    """Return whether the flash kernel is to be used.

    Args:
        n_heads: of the model.
        n_tokens: of a micro-batch.
        n_cells: that one token is held against.
        type_v: of the V cache.
        cpu_only: no device of type GPU is used.
    """
    small = 4 * n_heads * n_tokens * n_cells <= MOST_SCORES_BYTES
    return not (small and cpu_only and type_v in FLOAT_CACHES)
