"""How many slots each layer gets under one byte budget, and which few of them move as the layers' needs become known.

What a layer gains from one more slot comes as slopes: hits a step that slot number s adds to s others, falling (the
concave hull of its measured hit curve, hit_curves.py). A byte of slots saves slope bytes of reading a step, whatever
the size of the expert, so slopes compare between layers of different expert sizes. Taking the steepest first is
optimal for falling slopes (Fox 1966). Pure: knows nothing of pools, memory or time.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from qwenctl.errors import DoesNotFit
from qwenctl.units import format_memory

PAYBACK_STEPS = 1024.0
"""A slot moves if what it saves in so many steps is more than the one expert that moving it has read again."""


@dataclass(frozen=True, slots=True)
class LayerNeeds:
    """What bounds one layer's slots.

    Attributes:
        expert_bytes: bytes of a slot.
        n_experts: the most slots of use.
        n_used: the fewest: experts of one token.

    Raises:
        ValueError: a number that cannot be.
    """

    expert_bytes: int
    n_experts: int
    n_used: int

    def __post_init__(self) -> None:
        if self.expert_bytes < 1 or not 1 <= self.n_used <= self.n_experts:
            raise ValueError(f"no such layer: {self}")


def smallest_budget_bytes(layers: Sequence[LayerNeeds]) -> int:
    """Return the bytes with which every layer holds the experts of one token."""
    return sum(layer.n_used * layer.expert_bytes for layer in layers)


def used_bytes(layers: Sequence[LayerNeeds], n_slots: Sequence[int]) -> int:
    """Return the bytes of `n_slots`."""
    return sum(n * layer.expert_bytes for layer, n in zip(layers, n_slots, strict=True))


def even_quotas(budget_bytes: int, layers: Sequence[LayerNeeds]) -> tuple[int, ...]:
    """Return the slots of each layer if nothing is known: the same share of every layer's experts, as near as it goes.

    Raises:
        DoesNotFit: the budget is below `smallest_budget_bytes`.
    """
    slopes = [[1.0 - (s + 1) / layer.n_experts for s in range(layer.n_experts)] for layer in layers]
    return plan_quotas(budget_bytes, layers, slopes)


def plan_quotas(budget_bytes: int, layers: Sequence[LayerNeeds], slopes: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """Return the slots of each layer that save the most reading.

    Args:
        budget_bytes: for the slots of all layers.
        layers: their bounds.
        slopes: for each layer `n_experts` numbers, none larger than the one before: hits a step that each slot adds.

    Raises:
        DoesNotFit: the budget is below `smallest_budget_bytes`.
    """
    least = smallest_budget_bytes(layers)
    if budget_bytes < least:
        raise DoesNotFit(
            f"{format_memory(budget_bytes)} for experts do not hold those of one token, {format_memory(least)}",
            f"allow at least {format_memory(least)} for experts",
        )
    n_slots = [layer.n_used for layer in layers]
    free_bytes = budget_bytes - least
    steepest = [(-slopes[i][n], i) for i, n in enumerate(n_slots) if n < layers[i].n_experts]
    heapq.heapify(steepest)
    while steepest:
        _, i = heapq.heappop(steepest)
        if layers[i].expert_bytes > free_bytes:
            continue  # a smaller layer may still have use for the rest
        free_bytes -= layers[i].expert_bytes
        n_slots[i] += 1
        if n_slots[i] < layers[i].n_experts:
            heapq.heappush(steepest, (-slopes[i][n_slots[i]], i))
    return tuple(n_slots)


def rebalance(
    n_slots: Sequence[int],
    budget_bytes: int,
    layers: Sequence[LayerNeeds],
    slopes: Sequence[Sequence[float]],
    *,
    most_moves: int,
    payback_steps: float = PAYBACK_STEPS,
) -> tuple[int, ...]:
    """Return quotas a few slots better than `n_slots`, or the same where no move pays back: that is the hysteresis.

    Args:
        n_slots: what the layers have; must keep to their bounds and the budget.
        budget_bytes: for the slots of all layers.
        layers: their bounds.
        slopes: as in `plan_quotas`.
        most_moves: slots that layers may gain, all together.
        payback_steps: within these a moved slot must save more than one expert's reading.
    """
    quotas = list(n_slots)
    free_bytes = budget_bytes - used_bytes(layers, quotas)
    for _ in range(most_moves):
        taker = _best_taker(quotas, layers, slopes)
        if taker < 0:
            break
        most_lost = slopes[taker][quotas[taker]] - 1.0 / payback_steps
        after = _taken_from_others(quotas, layers, slopes, taker, free_bytes, most_lost)
        if after is None:
            break
        quotas = after
        free_bytes = budget_bytes - used_bytes(layers, quotas)
    return tuple(quotas)


def _best_taker(quotas: list[int], layers: Sequence[LayerNeeds], slopes: Sequence[Sequence[float]]) -> int:
    """Return the layer that gains most from one more slot; -1 if none gains anything."""
    best, best_slope = -1, 0.0
    for i, n in enumerate(quotas):
        if n < layers[i].n_experts and slopes[i][n] > best_slope:
            best, best_slope = i, slopes[i][n]
    return best


def _taken_from_others(  # noqa: PLR0917 - one step of `rebalance`
    quotas: list[int],
    layers: Sequence[LayerNeeds],
    slopes: Sequence[Sequence[float]],
    taker: int,
    free_bytes: int,
    most_lost: float,
) -> list[int] | None:
    """Return the quotas with one slot more for `taker`, for which no slot of `most_lost` or more went; None: no way."""
    left = list(quotas)
    while free_bytes < layers[taker].expert_bytes:
        candidates = [(slopes[i][n - 1], i) for i, n in enumerate(left) if i != taker and n > layers[i].n_used]
        loss, giver = min(candidates, default=(most_lost, -1))
        if loss >= most_lost:
            return None
        left[giver] -= 1
        free_bytes += layers[giver].expert_bytes
    left[taker] += 1
    return left
