"""What somebody who exports a checkpoint should know before it is served: one line each. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from quant.codecs.int4_search import GROUP_SIZES
from quant.export_format import WORD, ExportFormat
from quant.export_statistics import FittedStatistics
from quant.hf_config import HfConfig
from quant.shown import some

_PARALLEL_SIZES = (2, 4, 8)
_N_NAMED = 4


def export_cautions(config: HfConfig, kind: ExportFormat, fitted: FittedStatistics) -> tuple[str, ...]:
    """Return the warnings, those on quality first."""
    return (*_on_quality(config, kind, fitted), *_on_parallelism(config, kind))


def _on_quality(config: HfConfig, kind: ExportFormat, fitted: FittedStatistics) -> Iterator[str]:
    statistics = fitted.statistics
    if statistics.imatrix is None and statistics.moments is None:
        yield (
            "no statistics of activations: how much columns count is guessed from the weights, and errors are larger; "
            "qwenctl imatrix gathers them"
        )
    if kind.is_symmetric and config.n_experts:
        yield (
            f"GPTQ is symmetric, because vLLM loads no other, and {config.n_experts} experts a layer lose more by that "
            "than dense layers; --format awq is asymmetric"
        )
    if fitted.never_routed:
        experts = some(fitted.never_routed, _N_NAMED, "; ")
        yield f"experts that no token of the text reached, so columns are guessed: {experts}"
    if fitted.unweighted:
        yield f"without statistics, so columns are guessed: {some(fitted.unweighted, _N_NAMED)}"


def _on_parallelism(config: HfConfig, kind: ExportFormat) -> Iterator[str]:
    """Yield the dimensions that a tensor-parallel server cannot cut into as many parts as people have GPUs.

    Rows of o_proj and down_proj are cut, so each part must hold whole groups: vLLM and SGLang refuse others.
    """
    for name, length in _cut_dimensions(config):
        broken = [n for n in _PARALLEL_SIZES if length % (n * kind.group_size)]
        if not broken:
            continue
        parts = ", ".join(f"{length / n:g}" for n in broken)
        yield (
            f"tensor parallelism over {', '.join(map(str, broken))} GPUs cuts {name} {length} into {parts}, "
            f"not a multiple of the group size {kind.group_size}: {_way_out(length, broken[0], kind.group_size)}"
        )


def _cut_dimensions(config: HfConfig) -> Iterator[tuple[str, int]]:
    if config.n_experts:
        yield "moe_intermediate_size", config.n_ff_expert
    else:
        yield "intermediate_size", config.n_ff
    yield "the heads' outputs (num_attention_heads x head_dim)", config.n_heads * config.head_dim


def _way_out(length: int, n_parts: int, group_size: int) -> str:
    smaller = [size for size in GROUP_SIZES if size < group_size and length % (n_parts * size) == 0]
    fewer = "fewer GPUs or pipeline parallelism"
    return f"use {fewer}, or --group-size {smaller[0]}" if smaller else f"use {fewer}"


def unpackable(name: str, n_rows: int, n_columns: int, kind: ExportFormat) -> tuple[str, str | None] | None:
    """Return why a matrix cannot be packed and the next step, None if it can."""
    if n_rows % WORD:
        return f"{name} has {n_rows} rows, not a multiple of the {WORD} that are stored together", None
    if n_columns % kind.group_size == 0:
        return None
    fitting = [size for size in GROUP_SIZES if n_columns % size == 0]
    hint = f"--group-size {fitting[0]} fits it" if fitting else "--format gguf has types for every length"
    return f"{name} has rows of {n_columns}, not a multiple of the group size {kind.group_size}", hint
