"""A plan in words, bars and numbers: for people, and as the document of `--json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwenctl.cli.output import Output
from qwenctl.planning.placement import MemoryUse, Placement
from qwenctl.planning.plan import RunPlan
from qwenctl.planning.speed import Estimate
from qwenctl.services.planner import Advice, Compared
from qwenctl.units import GIB, format_bytes, format_count, format_memory

_BAR_CELLS = 28
_WORDS = {
    "devices": "fits: all weights on devices",
    "memory": "fits: all weights in memory",
    "disk": "fits, with some experts read from the disk as they are needed",
}


def print_advice(advice: Advice, output: Output) -> None:
    """Print a plan for people: verdict, bars, speeds, contexts, commands. Remarks go to standard error."""
    plan = advice.plan
    output.fields(
        [
            ("model", _model_words(plan)),
            ("machine", plan.machine.name),
            ("verdict", _WORDS[plan.placement.tier]),
            ("placement", _placement_words(plan)),
        ]
    )
    output.line()
    width = max(len(memory.name) for memory in plan.placement.memories)
    for memory in plan.placement.memories:
        output.line(_memory_line(memory, width, styled=output.styles_stdout))
    output.line()
    output.fields(
        [
            ("prompt", _speed_words(plan.speed.prefill, f"{plan.speed.n_prompt:,} tokens", plan.speed.band)),
            ("answer", _speed_words(plan.speed.decode, f"after {plan.speed.n_prompt:,} tokens", plan.speed.band)),
            ("", _speed_words(plan.speed.decode_full, f"after {plan.request.n_ctx:,} tokens", plan.speed.band)),
            ("context", _context_words(plan)),
        ]
    )
    output.line()
    for command in advice.commands:
        output.line(command)
    if advice.vllm and advice.vllm.fits:
        output.line()
        output.line("to serve many at once, on the same machine:")
        output.line(f"  {advice.vllm.export}")
        output.line(f"  {advice.vllm.serve}")
    _notes(plan, output)


def print_comparison(found: Sequence[Compared], output: Output) -> None:
    """Print a line for each combination."""
    rows = [_row(one) for one in found]
    header = ("MACHINE", "TYPE", "SIZE", "WEIGHTS IN", "PROMPT T/S", "ANSWER T/S", "LONGEST CONTEXT")
    output.table(header, rows, right=(2, 4, 5, 6))


def document(advice: Advice) -> dict[str, Any]:
    """Return the plan for --json. Bytes, seconds and tokens, as the names say."""
    plan, placement = advice.plan, advice.plan.placement
    return {
        "model": {
            "name": plan.model.outline.name,
            "architecture": plan.model.outline.architecture,
            "quant": plan.model.quant,
            "n_weights": plan.model.n_weights,
            "file_bytes": plan.model.file_bytes,
            "n_experts": plan.model.shape.n_experts,
            "cautions": list(plan.cautions),
        },
        "machine": {"name": plan.machine.name, "assumptions": list(plan.machine.assumptions)},
        "n_ctx": plan.request.n_ctx,
        "n_parallel": plan.request.n_parallel,
        "kv_type": plan.request.kv_type,
        "fits": True,
        "weights_in": placement.tier,
        "scheduler": placement.offload is not None,
        "memories": [
            {"name": one.name, "total_bytes": one.total_bytes, "planned_bytes": one.planned_bytes, **_parts(one)}
            for one in placement.memories
        ],
        "experts": _slots(placement),
        "n_ubatch": placement.n_ubatch,
        "speed": {
            "band": plan.speed.band,
            "n_prompt": plan.speed.n_prompt,
            "prefill": _estimate(plan.speed.prefill),
            "decode": _estimate(plan.speed.decode),
            "decode_full_context": _estimate(plan.speed.decode_full),
        },
        "n_ctx_same_speed": plan.n_ctx_same,
        "n_ctx_most": plan.n_ctx_most,
        "n_ctx_train": plan.context.n_ctx_train,
        "context_notes": list(plan.context.notes),
        "commands": list(advice.commands),
        "vllm": _vllm(advice),
    }


def comparison_document(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """Return the comparison for --json."""
    return [
        document(one.advice)
        if one.advice
        else {"machine": {"name": one.machine.name}, "quant": one.quant, "fits": False, "obstacle": one.obstacle}
        for one in found
    ]


def _model_words(plan: RunPlan) -> str:
    model = plan.model
    kind = model.quant or "as the file is"
    approximate = "" if model.outline.converts else ", about"
    return f"{model.outline.name}, {kind}{approximate} {format_bytes(model.file_bytes)}, {_weights(plan)}"


def _weights(plan: RunPlan) -> str:
    return f"{format_count(plan.model.n_weights)} weights"


def _placement_words(plan: RunPlan) -> str:
    placement = plan.placement
    if placement.offload is not None:
        return placement.offload.summary()
    if placement.stock is not None and placement.stock.parts:
        return placement.stock.summary()
    return f"all {plan.model.shape.n_layers} layers in main memory"


def _memory_line(memory: MemoryUse, width: int, *, styled: bool) -> str:
    filled = min(_BAR_CELLS, round(_BAR_CELLS * memory.planned_bytes / max(1, memory.total_bytes)))
    bar = "█" * filled + "░" * (_BAR_CELLS - filled) if styled else "#" * filled + "." * (_BAR_CELLS - filled)
    used = f"{memory.planned_bytes / GIB:.1f} of {memory.total_bytes / GIB:.1f} GiB"
    parts = [f"{name} {format_memory(size)}" for name, size in memory.parts.items() if size]
    return f"{memory.name:{width}}  {bar} {used:>22}  {', '.join(parts)}".rstrip()


def _speed_words(estimate: Estimate, what: str, band: float) -> str:
    low, high = (1 - band) * estimate.tokens_s, (1 + band) * estimate.tokens_s
    return f"{_number(estimate.tokens_s)} tokens/s ({_number(low)} to {_number(high)}) {what}: {estimate.bound_by}"


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 20 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2f}"


def _context_words(plan: RunPlan) -> str:
    trained = f", trained for {plan.context.n_ctx_train:,}" if plan.context.n_ctx_train else ""
    same = f"{plan.n_ctx_same:,} tokens at most without slower memory"
    most = f", {plan.n_ctx_most:,} at all" if plan.n_ctx_most > plan.n_ctx_same else ""
    return f"{same}{most}{trained}"


def _notes(plan: RunPlan, output: Output) -> None:
    for note in plan.context.notes:
        output.warning(note)
    for assumption in plan.machine.assumptions:
        output.note(f"assumed: {assumption}")
    for caution in plan.cautions:
        output.note(f"approximate: {caution}")


def _row(one: Compared) -> tuple[str, ...]:
    if one.advice is None:
        return (one.machine.name, one.quant or "the file's", "", "does not fit", "", "", "")
    plan = one.advice.plan
    return (
        one.machine.name,
        one.quant or "the file's",
        format_bytes(plan.model.file_bytes),
        plan.placement.tier,
        _number(plan.speed.prefill.tokens_s),
        _number(plan.speed.decode.tokens_s),
        f"{plan.n_ctx_same:,}",
    )


def _parts(memory: MemoryUse) -> dict[str, int]:
    return {f"{name}_bytes": size for name, size in memory.parts.items()}


def _slots(placement: Placement) -> dict[str, Any] | None:
    if placement.offload is None:
        return None
    plan = placement.offload
    return {
        "n_experts": plan.n_experts,
        "ram_slots_a_layer": [min(plan.n_slots), max(plan.n_slots)],
        "device_slots_a_layer": {one.name: one.n_slots for one in plan.devices.budgets},
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {
        "tokens_s": round(estimate.tokens_s, 3),
        "bound_by": estimate.bound_by,
        "seconds": {name: float(f"{seconds:.4g}") for name, seconds in estimate.seconds.items()},
    }


def _vllm(advice: Advice) -> dict[str, Any] | None:
    road = advice.vllm
    if road is None:
        return None
    return {"fits": road.fits, "export": road.export, "serve": road.serve, "weights_bytes": road.weights_bytes}
