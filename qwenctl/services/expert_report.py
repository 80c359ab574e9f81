"""What the routing of a run says about a model's experts, and what keeping some of them in memory would bring.

A report is made of a trace alone; the model's file, where it is at hand, adds what experts weigh.
Knows nothing of how it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from quant.gguf_read import read_gguf
from qwenctl.errors import InvalidRequest
from qwenctl.moe.expert_map import read_expert_map
from qwenctl.moe.replay import hit_rate_curve
from qwenctl.services.routing_capture import no_experts
from qwenctl.telemetry.routing_counts import LayerUse, collapse_warnings, count_uses, too_few_tokens
from qwenctl.telemetry.routing_steps import RoutingTrace
from qwenctl.telemetry.routing_trace import TraceReader

FRACTIONS = tuple(tenths / 10 for tenths in range(1, 11))  # of all experts; never less than one token takes


@dataclass(frozen=True, slots=True)
class ExpertBudget:
    """What keeping a share of all experts would bring."""

    fraction: float  # of all experts
    n_experts: float  # in a layer, on average
    n_bytes: int | None  # None: the model's file is not at hand
    hit_rate: float  # share of the wanted experts that are in memory already, from a cold start


@dataclass(frozen=True, slots=True)
class ExpertReport:
    """A trace, evaluated."""

    model: str
    n_layers: int  # of the model
    n_experts: int
    n_used: int
    n_tokens: int
    layers: tuple[LayerUse, ...]
    budgets: tuple[ExpertBudget, ...]
    warnings: tuple[str, ...]  # one line each
    n_tokens_needed: int  # to tell a collapse; 0: there were enough
    n_cut_bytes: int  # of an incomplete record at the end of the trace


def report_on(
    path: Path,
    *,
    layers: Collection[int] | None = None,
    expert_bytes: int | None = None,
    on_budget: Callable[[int], None] = lambda _: None,
) -> ExpertReport:
    """Evaluate a trace file.

    Args:
        path: the trace.
        layers: only these, where the model has experts there; None: all.
        expert_bytes: of all experts of all layers; None: not known.
        on_budget: is told how many of `FRACTIONS` are replayed: a long trace of a large model takes a minute.

    Raises:
        InvalidRequest: the trace cannot be read, is damaged or empty, or has no such layer.
    """
    reader = TraceReader(path)
    trace = reader.read()
    if not trace.steps:
        raise InvalidRequest(f"{path} holds no routing", "nothing was computed while it was recorded")
    share = 1.0
    if layers is not None:
        if missing := sorted(set(layers) - set(trace.layers)):
            there = f"{trace.layers[0]} to {trace.layers[-1]}"
            raise InvalidRequest(f"no experts in layer {missing[0]}; there are some in layers {there}")
        share = len(set(layers)) / len(trace.layers)
        trace = replace(trace, steps=tuple(step for step in trace.steps if step.layer in layers))
    uses = count_uses(trace)
    weight = None if expert_bytes is None else expert_bytes * share
    return _report(reader, uses, _budgets(trace, weight, on_budget))


def _report(reader: TraceReader, uses: tuple[LayerUse, ...], budgets: tuple[ExpertBudget, ...]) -> ExpertReport:
    header = reader.header
    return ExpertReport(
        model=header.model,
        n_layers=header.n_layers,
        n_experts=header.n_experts,
        n_used=header.n_used,
        n_tokens=max(use.n_tokens for use in uses),
        layers=uses,
        budgets=budgets,
        warnings=tuple(line for use in uses for line in collapse_warnings(use)),
        n_tokens_needed=too_few_tokens(uses),
        n_cut_bytes=reader.n_cut_bytes,
    )


def _budgets(
    trace: RoutingTrace, expert_bytes: float | None, on_budget: Callable[[int], None]
) -> tuple[ExpertBudget, ...]:
    """Return the budgets of `FRACTIONS`, as the replay rounds them; equal ones once."""
    n_all = len(trace.layers) * trace.n_experts
    budgets: dict[int, ExpertBudget] = {}
    for n_done, fraction in enumerate(FRACTIONS, 1):
        (result,) = hit_rate_curve(trace, [fraction])
        on_budget(n_done)
        n_slots = sum(result.n_slots)
        budgets[n_slots] = ExpertBudget(
            fraction=n_slots / n_all,
            n_experts=n_slots / len(trace.layers),
            n_bytes=None if expert_bytes is None else round(expert_bytes * n_slots / n_all),
            hit_rate=result.hit_rate,
        )
    return tuple(budgets.values())


def expert_bytes_of(path: Path) -> int | None:
    """Return what all experts of a model's file weigh; None where they are stored in a way that we do not know.

    Raises:
        InvalidRequest: a dense model.
        QuantError: the file cannot be read.
    """
    gguf = read_gguf(path)
    architecture = gguf.metadata.get("general.architecture")
    n_experts = gguf.metadata.get(f"{architecture}.expert_count")
    if not isinstance(n_experts, int) or n_experts < 1:
        raise no_experts(str(path), str(architecture))
    experts = read_expert_map(gguf)
    return None if experts is None else experts.expert_bytes
