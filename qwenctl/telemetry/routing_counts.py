"""What a routing trace says about each layer: use of the experts, how unevenly, how soon again. Pure numbers.

Tokens are taken in the order they were computed; several sequences at once would look like one that jumps about.
Knows nothing of files, models and caches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qwenctl.telemetry.routing_steps import RoutingTrace

_ENOUGH_USES = 20  # of an expert, were all used alike; below that nothing is said about a collapse
_MOST_NAMED = 8  # experts in a warning

Ids = npt.NDArray[np.int64]  # (n_tokens, n_used), a layer's experts in the order of its tokens


@dataclass(frozen=True, slots=True)
class LayerUse:
    """How a layer's experts were used. Shares are of all uses: a token uses `n_used` experts."""

    layer: int
    n_tokens: int
    n_used: int
    uses: tuple[int, ...]  # of each expert
    top_10_share: float  # of the most used tenth of the experts, rounded up to whole ones
    top_30_share: float
    n_for_90: int  # the fewest experts that together have 90 % of the uses
    entropy: float  # Shannon's, over its greatest value log(n_experts): 1 is even use, 0 a single expert
    gini: float  # 0 is even use; 1 - 1/n_experts a single expert
    repeat_rate: float | None  # share of a token's experts that the token before had too; None: a single token
    median_reuse_tokens: float | None  # tokens from one use of an expert to its next; None: none was used twice

    @property
    def n_experts(self) -> int:
        """Experts of the layer."""
        return len(self.uses)

    @property
    def n_unused(self) -> int:
        """Experts that no token was sent to."""
        return self.uses.count(0)

    @property
    def multiples(self) -> tuple[float, ...]:
        """Each expert's use as a multiple of what it were if all were used alike."""
        even = sum(self.uses) / len(self.uses)
        return tuple(n / even for n in self.uses)


def count_uses(trace: RoutingTrace) -> tuple[LayerUse, ...]:
    """Return the use of each layer that has steps, in the order of the layers."""
    ids: dict[int, list[int]] = {}
    for step in trace.steps:
        ids.setdefault(step.layer, []).extend(step.ids)
    return tuple(
        _layer_use(layer, np.array(ids[layer], dtype=np.int64).reshape(-1, trace.n_used), trace.n_experts)
        for layer in sorted(ids)
    )


def collapse_warnings(use: LayerUse) -> tuple[str, ...]:
    """Return one line for each sign of a collapsed router; none where the tokens are too few to tell.

    Signs: an expert that is never used; and 90 % of the uses on fewer than twice the experts that one token takes,
    of at least four times as many.
    """
    if use.n_tokens * use.n_used < _ENOUGH_USES * use.n_experts:
        return ()
    warnings = []
    if unused := [expert for expert, n in enumerate(use.uses) if n == 0]:
        named = ", ".join(map(str, unused[:_MOST_NAMED])) + (", ..." if len(unused) > _MOST_NAMED else "")
        what = f"{len(unused)} experts are" if len(unused) > 1 else "an expert is"
        warnings.append(f"layer {use.layer}: {what} never used in {use.n_tokens:,} tokens: {named}")
    if use.n_for_90 < 2 * use.n_used and 4 * use.n_used <= use.n_experts:
        warnings.append(f"layer {use.layer}: {use.n_for_90} of {use.n_experts} experts take 90 % of the uses")
    return tuple(warnings)


def too_few_tokens(uses: tuple[LayerUse, ...]) -> int:
    """Return how many tokens `collapse_warnings` needs where no layer has as many; 0 where one has."""
    if not uses or any(use.n_tokens * use.n_used >= _ENOUGH_USES * use.n_experts for use in uses):
        return 0
    return -(-_ENOUGH_USES * uses[0].n_experts // uses[0].n_used)


def _layer_use(layer: int, ids: Ids, n_experts: int) -> LayerUse:
    uses = np.bincount(ids.ravel(), minlength=n_experts)
    descending = np.sort(uses)[::-1]
    so_far = np.cumsum(descending)
    total = int(so_far[-1])
    gaps = _reuse_gaps(ids)
    return LayerUse(
        layer=layer,
        n_tokens=len(ids),
        n_used=ids.shape[1],
        uses=tuple(uses.tolist()),
        top_10_share=int(so_far[-(-n_experts // 10) - 1]) / total,
        top_30_share=int(so_far[-(-3 * n_experts // 10) - 1]) / total,
        n_for_90=int(np.searchsorted(10 * so_far, 9 * total)) + 1,
        entropy=_entropy(descending / total),
        gini=_gini(descending),
        repeat_rate=float(np.count_nonzero(gaps == 1)) / ids[1:].size if len(ids) > 1 else None,
        median_reuse_tokens=float(np.median(gaps)) if gaps.size else None,
    )


def _reuse_gaps(ids: Ids) -> npt.NDArray[np.int64]:
    """Return for each use of an expert but its first how many tokens before it the last one was."""
    tokens = np.repeat(np.arange(len(ids)), ids.shape[1])
    order = np.lexsort((tokens, ids.ravel()))
    experts, tokens = ids.ravel()[order], tokens[order]
    gaps: npt.NDArray[np.int64] = np.diff(tokens)[experts[1:] == experts[:-1]]
    return gaps


def _entropy(shares: npt.NDArray[np.float64]) -> float:
    """Return -Σ p·log p / log n; 1 for a single expert, which cannot be used unevenly."""
    if len(shares) == 1:
        return 1.0
    present = shares[shares > 0]
    return min(1.0, max(0.0, float(-(present * np.log(present)).sum() / np.log(len(shares)))))


def _gini(descending: npt.NDArray[np.int64]) -> float:
    """Return the Gini coefficient, (n + 1 - 2·Σ(n + 1 - i)·x_i / Σx_i) / n over ascending x_i, i = 1 … n.

    Source: Damgaard and Weiner, "Describing inequality in plant size or fecundity", Ecology 81 (2000).
    """
    n = len(descending)
    weighted = int((descending * np.arange(1, n + 1)).sum())
    return (n + 1 - 2 * weighted / int(descending.sum())) / n
