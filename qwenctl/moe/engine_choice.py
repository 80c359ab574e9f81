"""How a Mixture-of-Experts model's experts are to lie, and whether llama.cpp by itself is quicker. Pure.

`run` and `plan` both ask here, so that they cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from qwenctl.moe.layout_choice import LayoutChoice
from qwenctl.moe.model_size import ModelSize
from qwenctl.moe.offload_plan import OffloadPlan

Layout = TypeVar("Layout")
Sized = TypeVar("Sized")

_WORTH = 1.05  # times as quick as stock llama.cpp, by this machine's rates
_SMALL_BYTES = 512 << 20  # of experts that fit: their products are too short to gain from another arrangement


def first_suitable(
    groups: Iterable[Iterable[Layout]], size: Callable[[Layout], Sized], plan_of: Callable[[Sized], OffloadPlan]
) -> tuple[Layout, Sized]:
    """Return the first layout that suits what fits with it, and what `size` made of it.

    Args:
        groups: what suits all experts in memory, then what some on the disk; the first groups only where devices of
            this machine take experts.
        size: with one layout; what it raises ends the search.
        plan_of: its plan.

    Raises:
        ValueError: no layouts.
    """
    found: tuple[Layout, Sized] | None = None
    for group in groups:
        for layout in group:
            found = layout, size(layout)
            if plan_of(found[1]).resident:
                break
        if found is not None and _takes_experts(plan_of(found[1])):
            break
    if found is None:
        raise ValueError("no layout to choose from")
    return found


def is_for_stock(plan: OffloadPlan, model: ModelSize, choice: LayoutChoice | None) -> bool:
    """Return whether llama.cpp by itself is as quick, be it with prompts or with answers.

    Where devices hold the whole model, that is decided already (sizing.fits_devices). Else it is so where main memory
    holds all experts, devices hold none, and rearranging them gains nothing.

    Args:
        plan: of the model.
        model: its sizes.
        choice: of the experts' layout; None: on a machine of which only the rates are known.
    """
    small = model.n_experts * sum(model.expert_bytes) < _SMALL_BYTES
    if not small and any(budget.n_slots for budget in plan.devices.budgets):
        return False
    gains = choice is not None and choice.gain >= _WORTH and choice.never_slower
    return plan.resident and (small or not gains)


def _takes_experts(plan: OffloadPlan) -> bool:
    return any(budget.n_slots and not budget.name.startswith("RPC") for budget in plan.devices.budgets)
