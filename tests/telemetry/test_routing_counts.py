"""Counts and skew of a trace, against values worked out by hand and against slow definitions."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.telemetry.routing_counts import LayerUse, collapse_warnings, count_uses, too_few_tokens
from qwenctl.telemetry.routing_steps import RoutingTrace


def one_layer(n_experts: int, *tokens: tuple[int, ...]) -> LayerUse:
    """Return the use of a layer, one step a token."""
    trace = RoutingTrace.of(1, n_experts, len(tokens[0]), [(0, ids, 1) for ids in tokens])
    (use,) = count_uses(trace)
    return use


def test_a_scripted_trace():
    # expert 0 at tokens 0 1 2 3, expert 1 at 0 and 3, expert 2 at 1, expert 3 at 2
    use = one_layer(10, (0, 1), (0, 2), (3, 0), (1, 0))
    assert use.uses == (4, 2, 1, 1, 0, 0, 0, 0, 0, 0)
    assert (use.n_tokens, use.n_used, use.n_experts, use.n_unused) == (4, 2, 10, 6)
    assert use.top_10_share == 4 / 8
    assert use.top_30_share == 7 / 8
    assert use.n_for_90 == 4
    assert use.repeat_rate == 3 / 6  # expert 0, three times
    assert use.median_reuse_tokens == 1.0  # gaps 1 1 1 3
    assert use.entropy == pytest.approx(1.75 * math.log(2) / math.log(10))
    assert use.gini == pytest.approx((11 - 2 * (4 * 1 + 2 * 2 + 1 * 3 + 1 * 4) / 8) / 10)
    assert use.multiples[:3] == (5.0, 2.5, 1.25)


def test_batches_and_single_tokens_count_alike():
    tokens = [(0, 5), (5, 1), (2, 3), (3, 0), (5, 0)]
    flat = tuple(expert for ids in tokens for expert in ids)
    batch = RoutingTrace.of(1, 6, 2, [(0, flat[:6], 3), (0, flat[6:], 2)])
    assert count_uses(batch) == (one_layer(6, *tokens),)


def test_layers_without_experts_are_left_out():
    trace = RoutingTrace.of(5, 4, 1, [(3, (1,), 1), (1, (2,), 1), (3, (1,), 1)])
    assert [(use.layer, use.n_tokens) for use in count_uses(trace)] == [(1, 1), (3, 2)]
    assert count_uses(RoutingTrace.of(5, 4, 1, [])) == ()


def test_even_use_and_a_single_expert_are_the_ends_of_the_scales():
    even = one_layer(4, *[(i % 4,) for i in range(8)])
    assert (even.entropy, even.gini, even.n_for_90) == (1.0, 0.0, 4)
    assert (even.repeat_rate, even.median_reuse_tokens) == (0.0, 4.0)
    single = one_layer(4, *[(2,)] * 8)
    assert (single.entropy, single.gini, single.n_for_90) == (0.0, 0.75, 1)
    assert (single.repeat_rate, single.median_reuse_tokens) == (1.0, 1.0)
    alone = one_layer(1, (0,))
    assert (alone.entropy, alone.gini, alone.repeat_rate, alone.median_reuse_tokens) == (1.0, 0.0, None, None)


@st.composite
def layers(draw: st.DrawFn) -> tuple[int, list[tuple[int, ...]]]:
    n_experts = draw(st.integers(1, 24))
    n_used = draw(st.integers(1, min(4, n_experts)))
    token = st.permutations(range(n_experts)).map(lambda order: tuple(order[:n_used]))
    return n_experts, draw(st.lists(token, min_size=1, max_size=30))


@given(layer=layers())
def test_against_the_definitions(layer):
    n_experts, tokens = layer
    use = one_layer(n_experts, *tokens)
    flat = [expert for ids in tokens for expert in ids]
    counts = sorted((flat.count(expert) for expert in range(n_experts)), reverse=True)
    assert sorted(use.uses, reverse=True) == counts
    assert use.top_10_share == pytest.approx(sum(counts[: math.ceil(n_experts / 10)]) / len(flat))
    assert use.top_30_share == pytest.approx(sum(counts[: math.ceil(n_experts * 3 / 10)]) / len(flat))
    assert use.n_for_90 == next(n for n in range(1, n_experts + 1) if 10 * sum(counts[:n]) >= 9 * len(flat))
    differences = sum(abs(one - other) for one in counts for other in counts)
    assert use.gini == pytest.approx(differences / (2 * n_experts * len(flat)))
    assert 0.0 <= use.entropy <= 1.0

    repeats = [len(set(one) & set(other)) for one, other in pairwise(tokens)]
    assert use.repeat_rate == (sum(repeats) / len(use_ids) if (use_ids := flat[use.n_used :]) else None)
    gaps = [
        at - max(before)
        for at, ids in enumerate(tokens)
        for expert in ids
        if (before := [earlier for earlier in range(at) if expert in tokens[earlier]])
    ]
    assert use.median_reuse_tokens == (median(gaps) if gaps else None)


def test_a_collapsed_router_is_told_from_a_short_run():
    assert collapse_warnings(one_layer(16, *[(0, 1)] * 159)) == ()
    assert collapse_warnings(one_layer(16, *[(0, 1)] * 160)) == (
        "layer 0: 14 experts are never used in 160 tokens: 2, 3, 4, 5, 6, 7, 8, 9, ...",
        "layer 0: 2 of 16 experts take 90 % of the uses",
    )
    healthy = [(i % 16, (i + 1) % 16) for i in range(1600)]
    assert collapse_warnings(one_layer(16, *healthy)) == ()
    without_7 = [tuple(8 if expert == 7 else expert for expert in ids) for ids in healthy if ids != (7, 8)]
    assert collapse_warnings(one_layer(16, *without_7)) == ("layer 0: an expert is never used in 1,500 tokens: 7",)


def test_how_many_tokens_would_be_enough():
    few, enough = one_layer(16, *[(0, 1)] * 10), one_layer(16, *[(0, 1)] * 160)
    assert too_few_tokens((few,)) == 160
    assert too_few_tokens((few, enough)) == 0
    assert too_few_tokens(()) == 0
