"""The best that any policy could have done with a layer's slots, knowing the future (Belady 1966); for comparison only.

Whoever is wanted again last leaves first. Experts of the running step must stay, as in the real pool, and what a step
wants must come in: under these two conditions the rule is optimal, by the usual exchange argument.
Knows nothing of traces' files or of quotas between layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qwenctl.moe.residency import LayerPool


class BeladyPool(LayerPool):
    """A pool that knows its layer's steps, which must then be used in that order.

    Args:
        n_experts: experts of the layer.
        n_slots: slots.
        steps: the distinct experts of each step.
    """

    __slots__ = ("_next_uses", "_step")

    def __init__(self, n_experts: int, n_slots: int, steps: Sequence[Sequence[int]]) -> None:
        super().__init__(n_experts, n_slots)
        self._next_uses = next_uses(n_experts, steps)
        self._step = 0

    def use(self, experts: Sequence[int], ranking: npt.NDArray[np.int32] | None = None) -> list[int]:  # noqa: ARG002
        """Note the next step; `experts` are its distinct experts."""
        for expert, step in zip(experts, self._next_uses[self._step], strict=True):
            self.heat[expert] = -step
        self._step += 1
        return [expert for expert in experts if self.slot_of[expert] < 0]


def next_uses(n_experts: int, steps: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return for each expert of each step the number of the step that wants it next; infinity: none does."""
    following = [math.inf] * n_experts
    found: list[list[float]] = []
    for number in range(len(steps) - 1, -1, -1):
        found.append([following[expert] for expert in steps[number]])
        for expert in steps[number]:
            following[expert] = number
    found.reverse()
    return found
