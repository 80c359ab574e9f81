"""Slots for layers under a byte budget: nothing is lost, nothing is better, and moves come to an end."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.errors import DoesNotFit
from qwenctl.moe.quotas import (
    LayerNeeds,
    even_quotas,
    plan_quotas,
    rebalance,
    smallest_budget_bytes,
    used_bytes,
)


@st.composite
def layers_and_slopes(
    draw: st.DrawFn, sizes: tuple[int, ...] = (3, 4, 7)
) -> tuple[list[LayerNeeds], list[list[float]]]:
    layers, slopes = [], []
    for _ in range(draw(st.integers(1, 5))):
        n_experts = draw(st.integers(1, 9))
        n_used = draw(st.integers(1, n_experts))
        layers.append(LayerNeeds(draw(st.sampled_from(sizes)), n_experts, n_used))
        gains = st.lists(st.integers(0, 50), min_size=n_experts, max_size=n_experts)
        slopes.append(sorted((gain / 100 for gain in draw(gains)), reverse=True))
    return layers, slopes


def within_bounds(quotas: tuple[int, ...], layers: list[LayerNeeds]) -> bool:
    return all(layer.n_used <= n <= layer.n_experts for layer, n in zip(layers, quotas, strict=True))


def saved_bytes(quotas: tuple[int, ...], layers: list[LayerNeeds], slopes: list[list[float]]) -> float:
    pairs = zip(quotas, layers, slopes, strict=True)
    return sum(sum(gains[:n]) * layer.expert_bytes for n, layer, gains in pairs)


@given(layers_and_slopes(), st.integers(0, 200))
def test_a_plan_keeps_to_budget_and_bounds_and_wastes_no_room(
    model: tuple[list[LayerNeeds], list[list[float]]], more_bytes: int
) -> None:
    layers, slopes = model
    budget = smallest_budget_bytes(layers) + more_bytes
    quotas = plan_quotas(budget, layers, slopes)
    assert within_bounds(quotas, layers)
    left = budget - used_bytes(layers, quotas)
    assert left >= 0
    assert all(n == layer.n_experts or layer.expert_bytes > left for layer, n in zip(layers, quotas, strict=True))


@given(layers_and_slopes(sizes=(5,)), st.integers(0, 60))
def test_with_experts_of_one_size_no_other_quotas_save_more(
    model: tuple[list[LayerNeeds], list[list[float]]], more_bytes: int
) -> None:
    layers, slopes = model
    layers, slopes = layers[:3], slopes[:3]
    budget = smallest_budget_bytes(layers) + more_bytes
    every = itertools.product(*(range(layer.n_used, layer.n_experts + 1) for layer in layers))
    best = max(saved_bytes(one, layers, slopes) for one in every if used_bytes(layers, one) <= budget)
    assert saved_bytes(plan_quotas(budget, layers, slopes), layers, slopes) == pytest.approx(best)


@given(layers_and_slopes())
def test_below_the_smallest_budget_the_error_names_it(model: tuple[list[LayerNeeds], list[list[float]]]) -> None:
    layers, slopes = model
    least = smallest_budget_bytes(layers)
    assert plan_quotas(least, layers, slopes) == tuple(layer.n_used for layer in layers)
    with pytest.raises(DoesNotFit, match=f" {least} B"):
        plan_quotas(least - 1, layers, slopes)


@given(layers_and_slopes(), st.integers(0, 200), st.integers(1, 6))
def test_moves_keep_to_budget_and_bounds_and_each_pays(
    model: tuple[list[LayerNeeds], list[list[float]]], more_bytes: int, most_moves: int
) -> None:
    layers, slopes = model
    budget = smallest_budget_bytes(layers) + more_bytes
    before = even_quotas(budget, layers)
    after = rebalance(before, budget, layers, slopes, most_moves=most_moves, payback_steps=100.0)
    assert within_bounds(after, layers)
    assert used_bytes(layers, after) <= budget
    n_taken = sum(max(0, new - old) for new, old in zip(after, before, strict=True))
    assert n_taken <= most_moves
    quotas = before  # one by one: what a move leaves free, the next one takes whatever it is worth
    for _ in range(most_moves):
        moved = rebalance(quotas, budget, layers, slopes, most_moves=1, payback_steps=100.0)
        for i, j in itertools.permutations(range(len(layers)), 2):
            if moved[i] > quotas[i] and moved[j] < quotas[j]:  # what came is worth more than what went
                assert slopes[i][moved[i] - 1] > slopes[j][moved[j]]
        quotas = moved
    assert quotas == after


@given(layers_and_slopes(sizes=(5,)), st.integers(0, 200))
def test_repeated_moves_reach_the_plan_and_stop(
    model: tuple[list[LayerNeeds], list[list[float]]], more_bytes: int
) -> None:
    layers, slopes = model
    budget = smallest_budget_bytes(layers) + more_bytes
    quotas = even_quotas(budget, layers)
    for _ in range(60):
        new = rebalance(quotas, budget, layers, slopes, most_moves=2, payback_steps=1e9)
        if new == quotas:
            break
        quotas = new
    else:
        pytest.fail("the moves do not end")
    plan = plan_quotas(budget, layers, slopes)
    assert saved_bytes(quotas, layers, slopes) == pytest.approx(saved_bytes(plan, layers, slopes), abs=1e-6)


def test_a_gain_too_small_to_pay_back_moves_nothing() -> None:
    layers = [LayerNeeds(10, 4, 1)] * 2
    slopes = [[0.5, 0.011, 0.011, 0.0], [0.5, 0.002, 0.002, 0.0]]
    assert rebalance((2, 3), 50, layers, slopes, most_moves=4, payback_steps=100.0) == (2, 3)
    assert rebalance((2, 3), 50, layers, slopes, most_moves=4, payback_steps=200.0) == (3, 2)


def test_a_large_expert_takes_the_place_of_several_small_ones() -> None:
    layers = [LayerNeeds(10, 4, 1), LayerNeeds(4, 4, 1)]
    slopes = [[0.9, 0.8, 0.0, 0.0], [0.9, 0.1, 0.1, 0.1]]
    assert rebalance((1, 4), 26, layers, slopes, most_moves=4, payback_steps=100.0) == (2, 1)


def test_room_that_is_left_over_is_given_without_taking() -> None:
    layers = [LayerNeeds(10, 4, 1)] * 2
    slopes = [[0.5, 0.4, 0.1, 0.0], [0.5, 0.3, 0.1, 0.0]]
    assert rebalance((1, 1), 40, layers, slopes, most_moves=9) == (2, 2)


def test_even_quotas_give_each_layer_the_same_share() -> None:
    layers = [LayerNeeds(10, 128, 8), LayerNeeds(14, 128, 8), LayerNeeds(10, 64, 8)]
    assert even_quotas(10 * 64 + 14 * 64 + 10 * 32, layers) == (64, 64, 32)


@pytest.mark.parametrize("numbers", [(0, 4, 1), (1, 4, 0), (1, 4, 5)])
def test_impossible_layers_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no such layer"):
        LayerNeeds(*numbers)
