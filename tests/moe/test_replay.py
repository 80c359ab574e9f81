"""Policies on recorded and made-up routing: counts are right, the optimum is one, the chosen policy earns its place."""

from __future__ import annotations

import itertools
import random
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.errors import DoesNotFit
from qwenctl.moe.belady import next_uses
from qwenctl.moe.replay import POLICIES, hit_rate_curve, replay
from qwenctl.moe.synthetic_trace import QWEN3_8_FLASH_NEXT, QWEN3_30B_A3B, synthetic_trace
from qwenctl.telemetry.routing_steps import RoutingTrace
from tests.moe.demo_routing import demo_trace

FRACTIONS = (0.4, 0.45, 0.5, 0.55, 0.6)


def one_layer(*steps: tuple[int, ...], n_experts: int = 8) -> RoutingTrace:
    return RoutingTrace.of(1, n_experts, len(steps[0]), [(0, step, 1) for step in steps])


def n_slots_of(trace: RoutingTrace, fraction: float) -> int:
    return round(len(trace.layers) * trace.n_experts * fraction)


def closed_gap(trace: RoutingTrace, fractions: tuple[float, ...] = FRACTIONS) -> float:
    """Return how much of the hits between LRU and Belady, equal slots each, the chosen policy has, over all sizes."""
    gained = possible = 0.0
    for fraction in fractions:
        lru, chosen, belady = (
            replay(trace, policy, n_slots_of(trace, fraction)).hit_rate for policy in ("lru", "chosen", "belady")
        )
        gained += chosen - lru
        possible += belady - lru
    return gained / possible


def fewest_misses(steps: list[tuple[int, ...]], n_slots: int) -> int:
    """Return what an exhaustive search finds: demand loading, a step's experts stay while it runs."""

    @cache
    def search(number: int, held: frozenset[int]) -> int:
        if number == len(steps):
            return 0
        wanted = frozenset(steps[number])
        missing = len(wanted - held)
        n_kept = min(n_slots - len(wanted), len(held - wanted))
        ways = itertools.combinations(sorted(held - wanted), n_kept)
        return missing + min(search(number + 1, wanted | frozenset(kept)) for kept in ways)

    return search(0, frozenset())


# --- counting ----------------------------------------------------------------------------------------------------


def test_hits_misses_and_bytes_of_a_trace_small_enough_to_follow() -> None:
    trace = RoutingTrace.of(2, 4, 1, [(0, [0], 1), (1, [3], 1), (0, [1], 1), (1, [3], 1), (0, [0], 1), (1, [2], 1)])
    result = replay(trace, "lru", 2 * 10 + 2 * 7, expert_bytes=[10, 7])
    assert (result.hits, result.misses) == ((1, 1), (2, 2))
    assert result.bytes_read == 2 * 10 + 2 * 7
    assert result.first_token_bytes == 17
    assert result.hit_rate == pytest.approx(1 / 3)
    assert result.layer_hit_rates == pytest.approx((1 / 3, 1 / 3))


def test_the_first_token_costs_its_prompt_with_a_last_layer_of_one_token() -> None:
    prompt = [(0, [0, 1, 2], 3), (1, [3], 1), (0, [0, 3], 2), (1, [2], 1)]
    trace = RoutingTrace.of(2, 4, 1, [*prompt, (0, [1], 1), (1, [1], 1), (0, [2], 1), (1, [2], 1)])
    result = replay(trace, "lru", 4)
    assert result.first_token_bytes == 3 + 1 + 2 + 1
    assert result.bytes_read == 3 + 1 + 2 + 1 + 2 + 1


def test_an_expert_named_twice_in_a_batch_counts_once() -> None:
    trace = RoutingTrace.of(1, 4, 2, [(0, [0, 1, 1, 2], 2), (0, [1, 2], 1)])
    result = replay(trace, "lru", 3)
    assert (result.hits, result.misses) == ((2,), (3,))


def test_a_batch_larger_than_the_pool_leaves_the_pool_as_it_is() -> None:
    trace = RoutingTrace.of(1, 8, 2, [(0, [0, 1], 1), (0, [2, 3, 4, 5], 2), (0, [0, 1], 1)])
    for policy in ("lru", "heat", "chosen"):
        assert replay(trace, policy, 2).hits == (2,)


def test_layers_without_experts_are_left_out() -> None:
    trace = RoutingTrace.of(9, 4, 1, [(3, [0], 1), (7, [0], 1), (3, [0], 1), (7, [1], 1)])
    result = replay(trace, "chosen", 2)
    assert result.layers == (3, 7)
    assert (result.hits, result.misses) == ((1, 0), (1, 2))


def test_a_static_choice_is_there_from_the_start_and_never_changes() -> None:
    trace = one_layer((0,), (1,), (0,), (2,), (2,), (0,))
    result = replay(trace, "static", 1)
    assert (result.hits, result.misses) == ((3,), (3,))


def test_a_budget_below_one_expert_a_layer_does_not_fit() -> None:
    with pytest.raises(DoesNotFit):
        replay(one_layer((0, 1)), "lru", 0)


def test_everything_fits_at_a_fraction_of_one() -> None:
    trace = demo_trace()
    full, little = hit_rate_curve(trace, (1.0, 0.0))
    assert full.misses == (16, 16, 16, 16)
    assert little.n_slots == (4, 4, 4, 4)


@pytest.mark.parametrize("policy", POLICIES)
def test_slots_and_experts_are_conserved(policy: str) -> None:
    trace = demo_trace()
    result = replay(trace, policy, 30)  # type: ignore[arg-type]
    assert sum(result.n_slots) <= 30
    wanted = [sum(len(step.distinct()) for step in trace.of_layer(layer)) for layer in trace.layers]
    assert [hits + misses for hits, misses in zip(result.hits, result.misses, strict=True)] == wanted


# --- the optimum -------------------------------------------------------------------------------------------------


def test_next_uses() -> None:
    assert next_uses(3, [(0, 1), (1, 2), (0, 1)]) == [[2, 1], [2, float("inf")], [float("inf")] * 2]


@given(st.integers(2, 3), st.lists(st.sets(st.integers(0, 4), min_size=2, max_size=2), min_size=1, max_size=9))
def test_belady_misses_as_little_as_an_exhaustive_search(n_slots: int, sets: list[set[int]]) -> None:
    steps = [tuple(sorted(step)) for step in sets]
    assert replay(one_layer(*steps), "belady", n_slots).misses == (fewest_misses(steps, n_slots),)


@given(st.integers(0, 10_000), st.integers(2, 6))
def test_no_policy_with_equal_slots_beats_belady(seed: int, n_slots: int) -> None:
    dice = random.Random(seed)
    trace = one_layer(*(tuple(dice.sample(range(8), 2)) for _ in range(60)))
    best = replay(trace, "belady", n_slots).hit_rate
    assert best >= replay(trace, "lru", n_slots).hit_rate
    assert best >= replay(trace, "heat", n_slots).hit_rate


# --- acceptance: the chosen policy -------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.4, 0.5, 0.6])
def test_on_the_demo_model_the_chosen_policy_closes_the_gap_to_belady_by_thirty_percent(fraction: float) -> None:
    assert closed_gap(demo_trace(), (fraction,)) >= 0.30


@pytest.mark.slow
@pytest.mark.parametrize(("n_layers", "n_tokens"), [(12, 2000), (48, 1500)])
def test_on_published_locality_the_chosen_policy_closes_the_gap_to_belady_by_thirty_percent(
    n_layers: int, n_tokens: int
) -> None:
    """The fewer layers share what the first, near uniform, gains, the more: see bench_residency.py."""
    trace = synthetic_trace(QWEN3_30B_A3B, n_layers, n_tokens, seed=5)
    for fraction in (0.4, 0.5, 0.6):
        assert closed_gap(trace, (fraction,)) >= 0.40


def test_the_ranking_of_those_that_were_not_chosen_is_worth_hits() -> None:
    trace = synthetic_trace(QWEN3_30B_A3B, 4, 500, seed=5)
    blind = RoutingTrace(
        trace.n_layers, trace.n_experts, trace.n_used, tuple(step._replace(ranking=()) for step in trace.steps)
    )
    n_slots = n_slots_of(trace, 0.4)
    lru, uses, ranks = (replay(*one, n_slots).hit_rate for one in ((blind, "lru"), (blind, "heat"), (trace, "heat")))
    assert lru < uses < ranks
    assert ranks - lru > 1.5 * (uses - lru)


@pytest.mark.parametrize("fraction", [0.25, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9])
def test_on_the_demo_model_the_chosen_policy_is_not_below_lru(fraction: float) -> None:
    trace = demo_trace()
    n_slots = n_slots_of(trace, fraction)
    assert replay(trace, "chosen", n_slots).hit_rate >= replay(trace, "lru", n_slots).hit_rate


@pytest.mark.parametrize("fraction", [0.07, 0.1, 0.2, 0.4, 0.5, 0.6, 0.8])
def test_on_published_locality_the_chosen_policy_is_not_below_lru(fraction: float) -> None:
    trace = synthetic_trace(QWEN3_30B_A3B, 6, 500, seed=2)
    n_slots = n_slots_of(trace, fraction)
    assert replay(trace, "chosen", n_slots).hit_rate >= replay(trace, "lru", n_slots).hit_rate


@pytest.mark.parametrize("fraction", [0.06, 0.1, 0.14, 0.18])
def test_on_low_locality_small_pools_are_better_than_lru(fraction: float) -> None:
    trace = synthetic_trace(QWEN3_8_FLASH_NEXT, 3, 340, seed=2)
    n_slots = n_slots_of(trace, fraction)
    assert replay(trace, "heat", n_slots).hit_rate > replay(trace, "lru", n_slots).hit_rate


@pytest.mark.parametrize("fraction", [0.1, 0.18, 0.36, 0.54, 0.73])
def test_on_low_locality_the_chosen_policy_is_better_than_lru(fraction: float) -> None:
    trace = synthetic_trace(QWEN3_8_FLASH_NEXT, 3, 340, seed=2)
    n_slots = n_slots_of(trace, fraction)
    assert replay(trace, "chosen", n_slots).hit_rate >= replay(trace, "lru", n_slots).hit_rate


@pytest.mark.parametrize("n_slots_a_layer", [2, 4, 5])
def test_with_less_room_than_one_token_uses_there_are_still_hits(n_slots_a_layer: int) -> None:
    """A global LRU smaller than one token's cycle hits nothing: all is gone when a layer's turn comes again."""
    trace = synthetic_trace(QWEN3_30B_A3B, 6, 300, seed=2)
    chosen = replay(trace, "chosen", 6 * n_slots_a_layer)
    assert global_lru_hits(trace, 6 * n_slots_a_layer) == 0
    assert min(chosen.layer_hit_rates) > 0.0
    assert chosen.hit_rate >= replay(trace, "lru", 6 * n_slots_a_layer).hit_rate


def global_lru_hits(trace: RoutingTrace, n_slots: int) -> int:
    """Return the hits of one list for all layers: the cliff that per-layer pools avoid."""
    held: dict[tuple[int, int], None] = {}
    n_hits = 0
    for step in trace.steps:
        for expert in step.ids:
            n_hits += (step.layer, expert) in held
            held.pop((step.layer, expert), None)
            held[step.layer, expert] = None
            if len(held) > n_slots:
                del held[next(iter(held))]
    return n_hits


def test_one_layer_that_needs_more_gets_the_slots_of_the_others() -> None:
    """Layer 0 wants any four of twelve experts, the others always the same four: equal slots are wrong for all."""
    dice = random.Random(1)
    steps = []
    for _ in range(900):
        steps += [(layer, dice.sample(range(12), 4) if layer == 0 else [0, 1, 2, 3], 1) for layer in range(4)]
    trace = RoutingTrace.of(4, 16, 4, steps)
    chosen = replay(trace, "chosen", 28)
    assert chosen.n_slots[0] >= 11
    assert chosen.hit_rate > replay(trace, "belady", 28).hit_rate


@pytest.mark.slow
def test_a_model_of_235b_shape_replays_without_its_weights() -> None:
    locality = QWEN3_30B_A3B
    trace = synthetic_trace(locality, 94, 300, seed=1)
    result = replay(trace, "chosen", 94 * 64 * 11_400_000, expert_bytes=11_400_000)
    assert len(result.layers) == 94
    assert sum(result.hits) + sum(result.misses) == 94 * 300 * 8
    assert result.bytes_read == sum(result.misses) * 11_400_000
    assert sum(result.n_slots) <= 94 * 64
