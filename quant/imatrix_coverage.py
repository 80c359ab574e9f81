"""How many tokens each expert's statistics rest on, layer by layer. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from quant.imatrix import Imatrix

_EXPERTS = re.compile(r"blk\.(?P<layer>\d+)\..*_exps\b")


@dataclass(frozen=True, slots=True)
class LayerCoverage:
    """Tokens of the experts of one layer; `tokens[e]` were routed to expert e, of its least covered tensor."""

    layer: int
    tokens: tuple[int, ...]

    @property
    def least(self) -> int:
        """Tokens of the rarest expert."""
        return min(self.tokens)

    @property
    def median(self) -> float:
        """Tokens of the expert in the middle."""
        return float(np.median(self.tokens))

    @property
    def most(self) -> int:
        """Tokens of the busiest expert."""
        return max(self.tokens)

    def below(self, n_tokens: int) -> tuple[int, ...]:
        """Return the experts that saw fewer tokens; `below(1)` were never routed to."""
        return tuple(expert for expert, count in enumerate(self.tokens) if count < n_tokens)


def coverage_of(imatrix: Imatrix) -> tuple[LayerCoverage, ...]:
    """Return the layers with experts, ascending; none for a dense model, or statistics in one piece."""
    counts: dict[int, np.ndarray] = {}
    for name, entry in imatrix.entries.items():
        match = _EXPERTS.match(name)
        if match is None or entry.n_matrices == 1:
            continue
        layer = int(match["layer"])
        known = counts.get(layer)
        is_first = known is None or known.shape != entry.counts.shape
        counts[layer] = entry.counts if is_first else np.minimum(counts[layer], entry.counts)
    return tuple(LayerCoverage(layer, tuple(int(count) for count in counts[layer])) for layer in sorted(counts))
