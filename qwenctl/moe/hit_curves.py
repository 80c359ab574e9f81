"""How a layer's hit rate depends on its slots, measured while it runs on whatever slots it has.

Experts leave a pool coldest first, so with s slots an expert is present if fewer than s others are hotter when it is
wanted: one histogram of those ranks is the hit rate at every s (Mattson et al. 1970; heat is kept for absent experts
too, so the shadow list is the heat itself). Ranks cost a sort, so some steps are measured, and old ones fade.
Knows nothing of budgets (quotas.py) or of how slots move.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_LARGEST_WEIGHT = 2.0**64


class HitCurve:
    """The ranks of the experts that one layer wanted.

    Attributes:
        n_experts: experts of the layer.
        n_samples: steps sampled, the faded part of old ones left out.
        uses: how often each expert was in a sample, unfaded; for the routing profile.

    Args:
        n_experts: experts of the layer.
        half_life_samples: samples after which one counts half.
        hits_by_rank: what an earlier run measured (n_experts), to start from.
        n_samples: the samples that this counts as.
    """

    __slots__ = ("_growth", "_ranks", "_weight", "n_experts", "n_samples", "uses")

    def __init__(
        self,
        n_experts: int,
        half_life_samples: float = 2048.0,
        *,
        hits_by_rank: Sequence[float] = (),
        n_samples: float = 0.0,
    ) -> None:
        self.n_experts = n_experts
        self.n_samples = n_samples
        self.uses = [0] * n_experts
        self._ranks = [hits * n_samples for hits in hits_by_rank] or [0.0] * n_experts
        self._weight = 1.0
        self._growth = 2.0 ** (1.0 / half_life_samples)

    def sample(self, heat: Floats, experts: Sequence[int]) -> None:
        """Note a step's distinct experts; `heat` (n_experts,) as it was before they were used."""
        wanted = heat[list(experts)]
        n_hotter = self.n_experts - np.searchsorted(np.sort(heat), wanted, side="right")
        self._weight *= self._growth
        for expert, rank, warmth in zip(experts, n_hotter.tolist(), wanted.tolist(), strict=True):
            self.uses[expert] += 1
            if warmth > 0.0:  # else it was never ranked: absent, however many slots
                self._ranks[rank] += self._weight
        self.n_samples = self.n_samples / self._growth + 1.0
        if self._weight > _LARGEST_WEIGHT:
            self._ranks[:] = [count / self._weight for count in self._ranks]
            self._weight = 1.0

    def hits_by_rank(self) -> list[float]:
        """Return hits a step at each rank (n_experts); their sum up to s is the hits a step with s slots."""
        scale = 1.0 / (self._weight * max(self.n_samples, 1.0))
        return [count * scale for count in self._ranks]


def falling_slopes(curves: Sequence[HitCurve], prior_samples: float) -> list[list[float]]:
    """Return what `quotas` compares: for each layer the hits a step that each further slot adds, never rising.

    A layer with few samples is taken to be like the others: the mean of all counts as `prior_samples` samples.
    All layers must have the same number of experts.
    """
    own = np.array([curve.hits_by_rank() for curve in curves])
    n_samples = np.array([[curve.n_samples] for curve in curves])
    trust = n_samples / (n_samples + prior_samples)
    likely = trust * own + (1.0 - trust) * own.mean(axis=0)
    return [concave_hull(slopes) for slopes in smoothed(likely).tolist()]


def smoothed(hits_by_rank: Floats) -> Floats:
    """Return each rank's mean over the ranks within a quarter of it: high ranks are rare, and change slowly.

    Args:
        hits_by_rank: (…, n_experts), as is the result.
    """
    n_ranks = hits_by_rank.shape[-1]
    total = np.concatenate([np.zeros_like(hits_by_rank[..., :1]), np.cumsum(hits_by_rank, axis=-1)], axis=-1)
    rank = np.arange(n_ranks)
    reach = np.minimum(rank // 4, n_ranks - 1 - rank)
    means: Floats = (total[..., rank + reach + 1] - total[..., rank - reach]) / (2 * reach + 1)
    return means


def concave_hull(slopes: Sequence[float]) -> list[float]:
    """Return the slopes of the smallest concave curve above the one with `slopes`: neighbours that rise are averaged.

    (Pool adjacent violators; Ayer et al. 1955.)
    """
    runs: list[tuple[float, int]] = []  # (sum, length), means falling
    for slope in slopes:
        total, length = slope, 1
        while runs and runs[-1][0] * length <= total * runs[-1][1]:
            before, n_before = runs.pop()
            total, length = total + before, length + n_before
        runs.append((total, length))
    return [total / length for total, length in runs for _ in range(length)]
