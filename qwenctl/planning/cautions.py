"""Where a plan is only approximate, because llama.cpp does something that the sizes here do not know. Pure."""

from __future__ import annotations

from quant.model_outline import ModelOutline
from qwenctl.moe.context_memory import HYBRID

_EXACT = frozenset({"qwen2", "qwen3", "qwen3moe", "llama", "deepseek2", *HYBRID})


def cautions(outline: ModelOutline) -> tuple[str, ...]:
    """Return what is approximate about plans for a model, a line each; none for families that were held exact."""
    name, found = outline.architecture, []
    if not outline.converts:
        found.append(f"{name} is not converted here: sizes are those of llama.cpp's usual types, within some percent")
    if f"{name}.attention.sliding_window" in outline.metadata:
        found.append(f"{name} has layers that look back over a window only: their cache is planned as if they saw all")
    if f"{name}.ssm.state_size" in outline.metadata and name not in HYBRID:
        found.append(f"{name} has recurrent layers: they are planned as attention, and take less")
    if name not in _EXACT and not found:
        found.append(f"what a context of {name} takes was not held against llama.cpp: it is planned as plain attention")
    return tuple(found)
