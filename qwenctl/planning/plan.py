"""The plan: a quantization, a placement, speeds, the longest context. A pure function of model, machine and request.

"The best quantization that fits" is the best of those that need no slower memory than another would: with all weights
on devices if any has them there, else in memory, else with some on the disk. In memory every byte of a weight costs
time, so there it is the best that answers at reading speed, else the usual type; with experts on the disk, the usual.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from quant.model_outline import ModelOutline
from quant.recipe import OUTPUT_TYPES
from qwenctl.planning.cautions import cautions
from qwenctl.planning.context_limits import ContextAdvice, advise_context
from qwenctl.planning.machine import Machine
from qwenctl.planning.model import PlannedModel
from qwenctl.planning.placement import ContextRequest, LayoutGroups, Placement, place, try_place
from qwenctl.planning.speed import Speed, estimate_speed

QUALITY_ORDER = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs")
"""Best first; what is larger than Q8_0 measures no better."""

USUAL_QUANT = "q4_k_m"
READING_TOKENS_S = 20.0  # of one sequence: as fast as people read
_TIERS = ("devices", "memory", "disk")
_CELLS_STEP = 256
_YARN_FACTOR = 4  # the most that Qwen's cards state for YaRN

Layouts = Callable[[PlannedModel], LayoutGroups]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """One way to run a model on a machine.

    Attributes:
        model: in the types chosen.
        machine: that it is for.
        request: the context.
        placement: what lies where.
        speed: expected rates.
        n_ctx_same: the longest context that needs no slower memory than this plan.
        n_ctx_most: the longest that fits at all.
        context: what is to be known of contexts as long as the one asked for.
        cautions: what is approximate, a line each.
    """

    model: PlannedModel
    machine: Machine
    request: ContextRequest
    placement: Placement
    speed: Speed
    n_ctx_same: int
    n_ctx_most: int
    context: ContextAdvice
    cautions: tuple[str, ...]


def no_layouts(_model: PlannedModel) -> LayoutGroups:
    """Return what is known of experts' layouts on a machine that is not this one: nothing."""
    return ()


def plan_quant(
    outline: ModelOutline,
    quant: str | None,
    machine: Machine,
    request: ContextRequest,
    layouts: Layouts = no_layouts,
) -> RunPlan:
    """Return the plan for one quantization.

    Args:
        outline: of the model.
        quant: name of an output type; None: the file's own types.
        machine: to run it on.
        request: the context.
        layouts: of its experts on this machine.

    Raises:
        DoesNotFit: it does not.
    """
    model = PlannedModel.of(outline, None if quant is None else OUTPUT_TYPES[quant])
    known = layouts(model)
    placement = place(model, machine, request, known)
    search = _ContextSearch(model, machine, request, known)
    most = search.longest(_TIERS)
    same = most if placement.tier == _TIERS[-1] else search.longest(_TIERS[: _TIERS.index(placement.tier) + 1])
    return RunPlan(
        model=model,
        machine=machine,
        request=request,
        placement=placement,
        speed=estimate_speed(model, machine, placement, request),
        n_ctx_same=same,
        n_ctx_most=most,
        context=advise_context(outline, request.n_ctx),
        cautions=cautions(outline),
    )


def plan_best(
    outline: ModelOutline, machine: Machine, request: ContextRequest, layouts: Layouts = no_layouts
) -> RunPlan:
    """Return the plan for the best quantization that fits; a file that is there has only its own.

    Raises:
        DoesNotFit: none does; the message is that of the smallest.
    """
    if outline.types is not None:
        return plan_quant(outline, None, machine, request, layouts)
    fitting: dict[str, tuple[str, float]] = {}
    for quant in QUALITY_ORDER:
        model = PlannedModel.of(outline, OUTPUT_TYPES[quant])
        if placement := try_place(model, machine, request, layouts(model)):
            rate = estimate_speed(model, machine, placement, request).decode.tokens_s / request.n_parallel
            fitting[quant] = placement.tier, rate
    return plan_quant(outline, _best(fitting) if fitting else QUALITY_ORDER[-1], machine, request, layouts)


def _best(fitting: Mapping[str, tuple[str, float]]) -> str:
    """Return the best of (tier, tokens/s) by quantization, which are in the order of quality."""
    quickest = min((tier for tier, _ in fitting.values()), key=_TIERS.index)
    rates = {quant: rate for quant, (tier, rate) in fitting.items() if tier == quickest}
    usual = USUAL_QUANT if USUAL_QUANT in rates else next(iter(rates))
    if quickest == "devices":
        return next(iter(rates))
    better = list(rates)[: list(rates).index(usual)] if quickest == "memory" else []
    return next((quant for quant in better if rates[quant] >= READING_TOKENS_S), usual)


@dataclass(frozen=True, slots=True)
class _ContextSearch:
    """Looks for the longest context by halving; the placement only gets slower as it grows."""

    model: PlannedModel
    machine: Machine
    request: ContextRequest
    layouts: LayoutGroups

    def longest(self, tiers: Sequence[str]) -> int:
        """Return the longest context with a placement in one of `tiers`, up to what YaRN makes of the trained one."""
        most = max(self.request.n_ctx, _YARN_FACTOR * self.model.n_ctx_train)
        low, high = 0, -(-most // _CELLS_STEP)
        if self._fits(high, tiers):
            return most
        while low < high - 1:
            middle = (low + high) // 2
            if self._fits(middle, tiers):
                low = middle
            else:
                high = middle
        return low * _CELLS_STEP

    def _fits(self, steps: int, tiers: Sequence[str]) -> bool:
        request = replace(self.request, n_ctx=steps * _CELLS_STEP)
        placed = try_place(self.model, self.machine, request, self.layouts)
        return placed is not None and placed.tier in tiers
