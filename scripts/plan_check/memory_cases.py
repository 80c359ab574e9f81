"""The cases in which the plan's memory is held against llama.cpp's, and what the plan says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quant.json_fields import JsonFields
from quant.model_outline import ModelOutline, outline_of_config
from qwenctl.moe.context_memory import ContextShape, compute_buffer_bytes, kv_cache_bytes
from scripts.plan_check.no_alloc import Allocated, Context

CONFIGS = Path(__file__).resolve().parents[2] / "tests" / "planning" / "configs"
K = 1024

_USUAL = (Context(32 * K), Context(32 * K, kv_type="q8_0"), Context(4 * K, n_parallel=8), Context(8 * K, 1, 2048))
_PLAIN = (Context(4 * K, flash=False), Context(8 * K, 4, 1024, flash=False))
_LONG = (Context(256 * K), Context(128 * K, n_ubatch=4096))

CASES: Mapping[str, tuple[Context, ...]] = {
    "Qwen3-0.6B": _USUAL,
    "Qwen3-8B": _USUAL + _PLAIN,
    "Qwen3-14B": _USUAL,
    "Qwen3-32B": (*_USUAL, Context(128 * K)),
    "Qwen3-30B-A3B-Instruct-2507": _USUAL + _PLAIN + _LONG,
    "Qwen3-235B-A22B-Instruct-2507": (*_USUAL, *_PLAIN, *_LONG, Context(1024 * K, kv_type="q8_0")),
    "Qwen3-Coder-480B-A35B-Instruct": _USUAL,
    "Qwen3-Next-80B-A3B-Instruct": _USUAL + _LONG,
    "Qwen3.5-397B-A17B": _USUAL + _LONG,
    "DeepSeek-V3": (*_USUAL, Context(128 * K)),
    "Mixtral-8x22B-Instruct-v0.1": _USUAL,
}


@dataclass(frozen=True, slots=True)
class Compared:
    """One case: bytes besides weights as planned and as llama.cpp counts, and the weights that both have."""

    model: str
    context: Context
    planned: Allocated
    counted: Allocated
    weights: int

    @property
    def context_error(self) -> float:
        """How far the plan is off without weights."""
        return _total(self.planned) / _total(self.counted) - 1

    @property
    def error(self) -> float:
        """How far the plan is off with weights: what has to fit."""
        return (_total(self.planned) + self.weights) / (_total(self.counted) + self.weights) - 1

    @property
    def cells_error(self) -> float:
        """How far KV cache and states are off."""
        return self.planned.cells / self.counted.cells - 1


def read_outline(name: str) -> ModelOutline:
    """Return a model of `tests/planning/configs`."""
    path = CONFIGS / f"{name}.json"
    return outline_of_config(name, JsonFields(path, json.loads(path.read_text(encoding="utf-8"))))


def planned(outline: ModelOutline, context: Context) -> Allocated:
    """Return what the plan's formulas say."""
    n_vocab = outline.shapes["token_embd.weight"][0]
    shape = ContextShape.of(outline.metadata, n_vocab)
    cache = kv_cache_bytes(shape, context.n_cells, context.n_parallel, context.kv_type, context.kv_type)
    states = context.n_parallel * shape.state_bytes
    compute = compute_buffer_bytes(shape, context.n_ubatch, context.n_cells, flash=context.flash)
    return Allocated(cache - states, states, compute, 4 * n_vocab * context.n_parallel)


def compare(outline: ModelOutline, weights: int, counted: Sequence[Allocated]) -> list[Compared]:
    """Return each of the model's cases beside what was counted for it."""
    contexts = CASES[outline.name]
    return [
        Compared(outline.name, context, planned(outline, context), one, weights)
        for context, one in zip(contexts, counted, strict=True)
    ]


def _total(sizes: Allocated) -> int:
    return sizes.cells + sizes.compute + sizes.logits
