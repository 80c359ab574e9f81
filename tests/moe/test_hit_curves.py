"""What one pool's run tells about other numbers of slots, and the balance that is made of it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.moe.hit_curves import HitCurve, concave_hull, falling_slopes, smoothed
from qwenctl.moe.quotas import LayerNeeds, used_bytes
from qwenctl.moe.residency import LayerPool
from qwenctl.moe.slot_balance import SlotBalance
from qwenctl.moe.synthetic_trace import QWEN3_30B_A3B, synthetic_trace

SLOPES = st.lists(st.integers(0, 1000), min_size=1, max_size=40)


def test_a_curve_measured_at_one_size_predicts_the_hits_at_others() -> None:
    steps = list(synthetic_trace(QWEN3_30B_A3B, 2, 1500, seed=4).of_layer(1))
    curve, pools = HitCurve(128), {n: LayerPool(128, n, 16.0) for n in (16, 32, 51, 77, 100)}
    hits = dict.fromkeys(pools, 0)
    for step in steps:
        curve.sample(pools[51].heat, step.ids)
        for n_slots, pool in pools.items():
            absent = pool.use(step.ids)
            hits[n_slots] += len(step.ids) - len(absent)
            for expert in absent:
                pool.admit(expert, step.ids)
    predicted = np.cumsum(curve.hits_by_rank())
    for n_slots, n_hits in hits.items():
        least_precise = 0.04 if n_slots < 32 else 0.015  # a small pool holds much that it was made to admit
        assert predicted[n_slots - 1] / 8 == pytest.approx(n_hits / (8 * len(steps)), abs=least_precise)


def test_an_expert_that_was_never_used_is_no_hit_at_any_size() -> None:
    curve = HitCurve(4)
    curve.sample(np.array([0.0, 1.0, 0.0, 0.0]), [0, 1])
    assert curve.hits_by_rank() == [1.0, 0.0, 0.0, 0.0]
    assert curve.uses == [1, 1, 0, 0]


def test_old_samples_fade() -> None:
    curve = HitCurve(2, half_life_samples=10.0)
    for _ in range(2000):  # beyond the largest weight
        curve.sample(np.array([2.0, 1.0]), [0])
    assert curve.hits_by_rank() == pytest.approx([1.0, 0.0])
    for _ in range(10):
        curve.sample(np.array([2.0, 1.0]), [1])
    assert curve.hits_by_rank() == pytest.approx([0.5, 0.5], abs=1e-3)


def test_a_curve_goes_on_from_what_an_earlier_run_measured() -> None:
    curve = HitCurve(2, hits_by_rank=[0.75, 0.25], n_samples=10.0)
    assert curve.hits_by_rank() == pytest.approx([0.75, 0.25])
    for _ in range(10):
        curve.sample(np.array([2.0, 1.0]), [1])
    assert curve.hits_by_rank() == pytest.approx([0.375, 0.625], abs=2e-3)


@given(SLOPES)
def test_the_hull_never_rises_lies_above_and_ends_at_the_same_sum(slopes: list[int]) -> None:
    hull = concave_hull(slopes)
    assert all(a >= b - 1e-9 for a, b in pairwise(hull))
    above = np.cumsum(hull) - np.cumsum(slopes)
    assert above.min() > -1e-6
    assert above[-1] == pytest.approx(0.0, abs=1e-6)
    assert concave_hull(hull) == pytest.approx(hull)


def test_smoothing_leaves_low_ranks_and_straight_lines_alone() -> None:
    line = np.arange(40.0)[::-1]
    np.testing.assert_allclose(smoothed(line), line)
    spike = np.zeros(40)
    spike[[1, 20]] = 1.0
    assert smoothed(spike)[1] == 1.0
    assert smoothed(spike)[20] == pytest.approx(1 / 11)


def test_a_layer_without_samples_is_taken_for_the_mean_of_all() -> None:
    known, unknown = HitCurve(4), HitCurve(4)
    for _ in range(100):
        known.sample(np.array([4.0, 3.0, 2.0, 1.0]), [0, 1])
    slopes = falling_slopes([known, unknown], 16.0)
    assert slopes[1] == pytest.approx([0.5, 0.5, 0.0, 0.0])
    assert slopes[0][0] > 0.9


def test_slots_follow_the_needs_of_the_layers_and_then_rest() -> None:
    """Layer 0 wants two experts for ever, layer 1 walks through six of its eight."""
    needs = [LayerNeeds(10, 8, 2)] * 2
    balance = SlotBalance(80, needs, (4, 4))
    pools = [LayerPool(8, 8), LayerPool(8, 8)]
    history = []
    for token in range(400):
        for position, experts in enumerate(([0, 1], [2 * token % 6, 2 * token % 6 + 1])):
            balance.sample(position, pools[position].heat, experts)
            pools[position].use(experts)
        if token % 32 == 31:
            before = balance.n_slots
            for position, n_slots in balance.propose():
                assert n_slots != before[position]
            assert used_bytes(needs, balance.n_slots) <= 80
            history.append(balance.n_slots)
    assert history[-1] == (2, 6)
    assert len(set(history[3:])) == 1


def test_those_that_shrink_come_first_in_a_proposal() -> None:
    balance = SlotBalance(80, [LayerNeeds(10, 8, 2)] * 2, (4, 4))
    pools = [LayerPool(8, 8), LayerPool(8, 8)]
    for token in range(100):
        for position, experts in enumerate(([2 * token % 6, 2 * token % 6 + 1], [0, 1])):
            balance.sample(position, pools[position].heat, experts)
            pools[position].use(experts)
    assert balance.propose() == ((1, 3), (0, 5))


@pytest.mark.parametrize("n_slots", [(5, 4), (1, 4), (9, 2)])
def test_quotas_out_of_bounds_are_refused(n_slots: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="quotas"):
        SlotBalance(80 if n_slots[0] != 9 else 110, [LayerNeeds(10, 8, 2)] * 2, n_slots)
