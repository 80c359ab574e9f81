"""What a policy would have made of a recorded routing: hits, misses and bytes, without any weights.

    lru       per-layer pools, the same number of slots each, least recently used leaves
    heat      the same, coldest leaves (residency.py), by the router's ranking where the trace has it
    chosen    what the program does: coldest leaves, and slots move between layers (slot_balance.py)
    static    the layer's most used experts of the whole trace stay for good: better than any real profile
    belady    the same number of slots each, with knowledge of the future (belady.py)

A step that wants more experts than its layer has slots is streamed: present experts are hits, the others are read
past the pool. A prompt's batch leaves the pool as it is; of a single token's, those that are hotter than what the pool
holds get a slot. Pure; a trace at the shape of 235B takes a minute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from qwenctl.moe.belady import BeladyPool
from qwenctl.moe.quotas import LayerNeeds, even_quotas
from qwenctl.moe.residency import LayerPool, half_life_steps
from qwenctl.moe.slot_balance import PROPOSE_EVERY, SAMPLE_EVERY, SlotBalance
from qwenctl.telemetry.routing_steps import RoutingStep, RoutingTrace

Policy = Literal["lru", "heat", "chosen", "static", "belady"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay counted; tuples go by the trace's `layers`.

    Attributes:
        policy: whose.
        layers: block numbers.
        n_slots: slots at the end.
        hits: distinct experts of a step that were present, summed over the steps.
        misses: those that had to be read.
        bytes_read: of all misses.
        first_token_bytes: of those until the first token came out: the leading batches of more than one token, or the
            first batch.
        n_moved: slots that went from one layer to another.
    """

    policy: Policy
    layers: tuple[int, ...]
    n_slots: tuple[int, ...]
    hits: tuple[int, ...]
    misses: tuple[int, ...]
    bytes_read: int
    first_token_bytes: int
    n_moved: int = 0

    @property
    def hit_rate(self) -> float:
        """Hits of all wanted, 0 … 1; 0 of an empty trace."""
        wanted = sum(self.hits) + sum(self.misses)
        return sum(self.hits) / wanted if wanted else 0.0

    @property
    def layer_hit_rates(self) -> tuple[float, ...]:
        """Hits of all wanted in each layer."""
        return tuple(hits / (hits + misses) for hits, misses in zip(self.hits, self.misses, strict=True))


class RecencyPool(LayerPool):
    """Plain LRU: heat is the number of the step that used the expert last.

    Within a step the expert named first counts as used last: it has the largest gate, and no other order hits more.
    """

    __slots__ = ("_step",)

    def __init__(self, n_experts: int, n_slots: int) -> None:
        super().__init__(n_experts, n_slots)
        self._step = 0.0

    def use(self, experts: Sequence[int], ranking: npt.NDArray[np.int32] | None = None) -> list[int]:  # noqa: ARG002
        """Note one step's distinct experts; return those absent."""
        self._step += 1.0
        for place, expert in enumerate(experts):
            self.heat[expert] = self._step - place / self.n_experts
        return [expert for expert in experts if self.slot_of[expert] < 0]


class StaticPool(LayerPool):
    """A fixed choice: never admits anything afterwards."""

    __slots__ = ()

    def __init__(self, n_experts: int, n_slots: int, steps: Sequence[Sequence[int]]) -> None:
        super().__init__(n_experts, n_slots)
        uses = Counter(expert for step in steps for expert in step)
        for expert, _ in uses.most_common(n_slots):
            self.admit(expert, ())


def ranking_of(step: RoutingStep) -> npt.NDArray[np.int32] | None:
    """Return what a pool is told of the router's ranking, (n_tokens, n_ranked); None: the trace does not have it."""
    return np.array(step.ranking, dtype=np.int32).reshape(step.n_tokens, -1) if step.ranking else None


def replay(
    trace: RoutingTrace,
    policy: Policy,
    budget_bytes: int,
    expert_bytes: int | Sequence[int] = 1,
) -> ReplayResult:
    """Run `trace` through `policy`.

    Args:
        trace: recorded or synthetic routing.
        policy: one of POLICIES.
        budget_bytes: for the slots of all layers; with the default `expert_bytes` simply their number.
        expert_bytes: bytes of one expert, the same in every layer or one for each of `trace.layers`.

    Raises:
        DoesNotFit: the budget does not hold one expert of each layer. (The program wants those of one token.)
    """
    return _Replay(trace, policy, budget_bytes, expert_bytes).run()


def hit_rate_curve(
    trace: RoutingTrace, fractions: Sequence[float], policy: Policy = "chosen"
) -> tuple[ReplayResult, ...]:
    """Replay `trace` with room for each of `fractions` (0 … 1) of all experts, but never less than one token's."""
    n_layers = len(trace.layers)
    least, most = n_layers * trace.n_used, n_layers * trace.n_experts
    return tuple(replay(trace, policy, min(most, max(least, round(most * part)))) for part in fractions)


class _Replay:
    """The state of one replay."""

    def __init__(
        self, trace: RoutingTrace, policy: Policy, budget_bytes: int, expert_bytes: int | Sequence[int]
    ) -> None:
        self.trace, self.policy, self.layers = trace, policy, trace.layers
        sizes = [expert_bytes] * len(self.layers) if isinstance(expert_bytes, int) else expert_bytes
        least = trace.n_used if budget_bytes >= trace.n_used * sum(sizes) else 1
        needs = [LayerNeeds(size, trace.n_experts, least) for size in sizes]
        quotas = even_quotas(budget_bytes, needs)
        self.expert_bytes = sizes
        self.steps = [(step, step.distinct()) for step in trace.steps]
        self.pools = [self._make_pool(layer, n_slots) for layer, n_slots in zip(self.layers, quotas, strict=True)]
        self.balance = SlotBalance(budget_bytes, needs, quotas) if policy == "chosen" else None
        self.n_moved = 0

    def _make_pool(self, layer: int, n_slots: int) -> LayerPool:
        n_experts = self.trace.n_experts
        if self.policy == "lru":
            return RecencyPool(n_experts, n_slots)
        if self.policy in ("heat", "chosen"):
            return LayerPool(n_experts, n_slots, half_life_steps(n_slots, self.trace.n_used))
        steps = [distinct for step, distinct in self.steps if step.layer == layer]
        return (StaticPool if self.policy == "static" else BeladyPool)(n_experts, n_slots, steps)

    def run(self) -> ReplayResult:
        position = {layer: i for i, layer in enumerate(self.layers)}
        hits, misses = [0] * len(self.layers), [0] * len(self.layers)
        n_batches, previous_layer = 0, self.trace.n_layers
        first_token_bytes, until_first_token = 0, True
        for step, distinct in self.steps:
            i = position[step.layer]
            if step.layer <= previous_layer:
                n_batches += 1
                until_first_token = until_first_token and (step.n_tokens > 1 or n_batches == 1)
                self._rebalance(n_batches)
            previous_layer = step.layer
            n_misses = self._compute(i, step, distinct, n_batches)
            hits[i] += len(distinct) - n_misses
            misses[i] += n_misses
            if until_first_token:
                first_token_bytes += n_misses * self.expert_bytes[i]
        return ReplayResult(
            self.policy,
            self.layers,
            tuple(pool.n_slots for pool in self.pools),
            tuple(hits),
            tuple(misses),
            sum(n * size for n, size in zip(misses, self.expert_bytes, strict=True)),
            first_token_bytes,
            self.n_moved,
        )

    def _compute(self, i: int, step: RoutingStep, distinct: tuple[int, ...], n_batches: int) -> int:
        """Let one layer compute one batch; returns the experts read."""
        pool = self.pools[i]
        if len(distinct) > pool.n_slots:
            return self._stream(pool, step, distinct)
        if self.balance and (n_batches + i) % SAMPLE_EVERY == 0:
            self.balance.sample(i, pool.heat, distinct)
        absent = pool.use(distinct, ranking_of(step) if self.policy in ("heat", "chosen") else None)
        if self.policy != "static":
            for expert in absent:
                pool.admit(expert, distinct)
        return len(absent)

    def _stream(self, pool: LayerPool, step: RoutingStep, distinct: tuple[int, ...]) -> int:
        """Let a layer compute a batch that its pool cannot hold; returns the experts read."""
        absent = [expert for expert in distinct if pool.slot_of[expert] < 0]
        pool.use(distinct if self.policy == "belady" else step.ids[-self.trace.n_used :])
        if step.n_tokens == 1 and self.policy != "static":
            for expert in absent:
                pool.admit_hotter(expert)
        return len(absent)

    def _rebalance(self, n_batches: int) -> None:
        if self.balance and n_batches % PROPOSE_EVERY == 0:
            for i, n_slots in self.balance.propose():
                more = n_slots - self.pools[i].n_slots
                self.pools[i].open_slots(max(0, more))
                self.pools[i].close_coldest(max(0, -more))
                self.n_moved += max(0, more)
