"""Whether a Mixture-of-Experts model that was sized is quicker with llama.cpp by itself. Pure; `run`, `plan` ask it."""

from __future__ import annotations

from qwenctl.moe.layout_choice import LayoutChoice
from qwenctl.moe.model_size import ModelSize
from qwenctl.moe.offload_plan import OffloadPlan

_WORTH = 1.05  # times as quick as stock llama.cpp, by this machine's rates
_SMALL_BYTES = 512 << 20  # of experts that fit: their products are too short to gain from another arrangement


def is_for_stock(plan: OffloadPlan, model: ModelSize, choice: LayoutChoice | None) -> bool:
    """Return whether llama.cpp by itself is as quick, be it with prompts or with answers.

    That is so where devices hold the whole model, and where main memory holds all experts and rearranging them gains
    nothing.

    Args:
        plan: of the model.
        model: its sizes.
        choice: of the experts' layout; None: on a machine of which only the rates are known.
    """
    if _is_all_on_devices(plan, model):
        return True
    small = model.n_experts * sum(model.expert_bytes) < _SMALL_BYTES
    gains = choice is not None and choice.gain >= _WORTH and choice.never_slower
    return plan.resident and (small or not gains)


def _is_all_on_devices(plan: OffloadPlan, model: ModelSize) -> bool:
    budgets = plan.devices.budgets
    n_held = sum(len(budget.layers) for budget in budgets)
    every = all(budget.n_slots == model.n_experts for budget in budgets if budget.layers)
    return n_held == model.shape.n_layers and every
