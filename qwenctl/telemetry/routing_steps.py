"""Which experts a run's tokens were routed to, in memory: one step for each MoE layer of each computed batch.

    step  = (layer, ids, n_tokens, ranking)     ids: n_tokens x n_used expert numbers, token after token
    trace = the shape of the model + its steps in the order they were computed

Knows nothing of files (routing_trace.py) or of what a cache would have done with it (qwenctl.moe.replay).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


class RoutingStep(NamedTuple):
    """One MoE layer in one computed batch.

    Attributes:
        layer: the model's block number.
        ids: the routed experts, flat: `n_used` of them for each token, token after token.
        n_tokens: tokens in the batch; 1 when a single sequence generates.
        ranking: the experts of each token by the router's liking, best first, token after token, as many for each;
            begins with the routed ones. Empty: not known.
    """

    layer: int
    ids: tuple[int, ...]
    n_tokens: int
    ranking: tuple[int, ...] = ()

    @classmethod
    def of(cls, layer: int, rows: tuple[int, ...], n_tokens: int, n_used: int) -> RoutingStep:
        """Build a step from a row of ids for each token: the routed ones, or, if they are longer, the ranking."""
        width = len(rows) // n_tokens if n_tokens else 0
        if width <= n_used:
            return cls(layer, rows, n_tokens)
        firsts = range(0, len(rows), width)
        return cls(layer, tuple(expert for first in firsts for expert in rows[first : first + n_used]), n_tokens, rows)

    def distinct(self) -> tuple[int, ...]:
        """Return each expert of the step once, in the order of first mention."""
        return tuple(dict.fromkeys(self.ids))


@dataclass(frozen=True, slots=True)
class RoutingTrace:
    """The routing of a run.

    Attributes:
        n_layers: blocks of the model; those without experts have no steps.
        n_experts: experts of each MoE layer.
        n_used: experts that each token is routed to.
        steps: in the order they were computed.

    Raises:
        ValueError: a step does not fit the shape; the message names it.
    """

    n_layers: int
    n_experts: int
    n_used: int
    steps: tuple[RoutingStep, ...]

    def __post_init__(self) -> None:
        if self.n_layers < 1 or not 1 <= self.n_used <= self.n_experts:
            raise ValueError(f"no such model: {self.n_layers} layers, {self.n_used} of {self.n_experts} experts")
        for number, step in enumerate(self.steps):
            if not 0 <= step.layer < self.n_layers:
                raise ValueError(f"step {number}: layer {step.layer} of {self.n_layers}")
            if step.n_tokens < 1 or len(step.ids) != step.n_tokens * self.n_used:
                raise ValueError(f"step {number}: {len(step.ids)} ids for {step.n_tokens} tokens x {self.n_used}")
            if len(step.ranking) % step.n_tokens or 0 < len(step.ranking) < len(step.ids):
                raise ValueError(f"step {number}: {len(step.ranking)} ranks for {step.n_tokens} tokens x {self.n_used}")
            if not all(0 <= expert < self.n_experts for expert in (*step.ids, *step.ranking)):
                raise ValueError(f"step {number}: an expert outside 0..{self.n_experts - 1}")

    @classmethod
    def of(
        cls, n_layers: int, n_experts: int, n_used: int, steps: Iterable[tuple[int, Iterable[int], int]]
    ) -> RoutingTrace:
        """Build a trace from tuples (layer, rows of n_used or more ids, n_tokens)."""
        kept = tuple(RoutingStep.of(layer, tuple(rows), n_tokens, n_used) for layer, rows, n_tokens in steps)
        return cls(n_layers, n_experts, n_used, kept)

    @property
    def layers(self) -> tuple[int, ...]:
        """The block numbers that have steps, ascending."""
        return tuple(sorted({step.layer for step in self.steps}))

    @property
    def n_tokens(self) -> int:
        """Tokens computed: those of the first layer that has steps."""
        first = self.layers[:1]
        return sum(step.n_tokens for step in self.steps if step.layer in first)

    def of_layer(self, layer: int) -> Iterator[RoutingStep]:
        """Yield the steps of one layer, in order."""
        return (step for step in self.steps if step.layer == layer)
