"""Slots that follow the layers' needs while a model runs: samples of what each layer wants, now and then a few moves.

    sample (some steps) → hit curves → propose: the slots each layer should have → the caller resizes its pools

Holds the quotas and the measurements; knows nothing of pools, memory or time.
"""

from __future__ import annotations

from collections.abc import Sequence

from qwenctl.moe.hit_curves import Floats, HitCurve, falling_slopes
from qwenctl.moe.quotas import LayerNeeds, rebalance, used_bytes

SAMPLE_EVERY = 2
"""Of so many steps of a layer one is sampled, in different layers different ones."""

PROPOSE_EVERY = 32
"""Tokens between two proposals: one takes some 12 ms for 94 layers of 128 experts."""

PRIOR_SAMPLES = 16.0
"""What a layer's own samples must outweigh before it is taken to differ from the others."""


class SlotBalance:
    """The quotas of a model's MoE layers, all of one number of experts.

    Attributes:
        n_slots: the quotas now, by position of the layer.
        curves: what was measured, by position of the layer.

    Args:
        budget_bytes: for the slots of all layers.
        layers: their bounds.
        n_slots: the quotas to start from, within bounds and budget.
        curves: what an earlier run measured, to start from.

    Raises:
        ValueError: the quotas break bounds or budget.
    """

    def __init__(
        self,
        budget_bytes: int,
        layers: Sequence[LayerNeeds],
        n_slots: Sequence[int],
        curves: Sequence[HitCurve] | None = None,
    ) -> None:
        if used_bytes(layers, n_slots) > budget_bytes:
            raise ValueError(f"the quotas take {used_bytes(layers, n_slots)} of {budget_bytes} bytes")
        if not all(layer.n_used <= n <= layer.n_experts for layer, n in zip(layers, n_slots, strict=True)):
            raise ValueError(f"quotas out of bounds: {n_slots}")
        self.n_slots = tuple(n_slots)
        self._budget_bytes = budget_bytes
        self._layers = tuple(layers)
        self.curves = tuple(curves or (HitCurve(layer.n_experts) for layer in layers))

    def sample(self, position: int, heat: Floats, experts: Sequence[int]) -> None:
        """Note what a step of the layer at `position` wants; before its pool's `use`, with the pool's `heat`."""
        self.curves[position].sample(heat, experts)

    def propose(self) -> tuple[tuple[int, int], ...]:
        """Move a few slots where that pays back.

        Returns:
            (position, slots) of each layer that changes, those that shrink first; empty: nothing to do.
        """
        slopes = falling_slopes(self.curves, PRIOR_SAMPLES)
        most_moves = 1 + len(self._layers) // 4
        quotas = rebalance(self.n_slots, self._budget_bytes, self._layers, slopes, most_moves=most_moves)
        pairs = enumerate(zip(quotas, self.n_slots, strict=True))
        changes = sorted((new > old, i, new) for i, (new, old) in pairs if new != old)
        self.n_slots = quotas
        return tuple((position, n_slots) for _, position, n_slots in changes)
