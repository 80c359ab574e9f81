"""Allocation under a budget: never over it, never worse than any other choice by more than one step."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.allocation import Allocation, Choice, allocate
from quant.errors import BudgetTooSmall

_TENSORS = st.dictionaries(
    st.sampled_from("abcde"),
    st.lists(
        st.builds(Choice, st.just("X"), st.integers(1, 50), st.floats(0, 10)), min_size=1, max_size=4
    ),
    min_size=1,
)  # fmt: skip


@given(_TENSORS, st.integers(5, 300))
def test_within_budget_and_near_the_best(tensors: dict[str, list[Choice]], budget: int) -> None:
    everything = [dict(zip(tensors, picks, strict=True)) for picks in product(*tensors.values())]
    fitting = [picks for picks in everything if sum(one.n_bytes for one in picks.values()) <= budget]
    if not fitting:
        with pytest.raises(BudgetTooSmall):
            allocate(tensors, budget)
        return
    found = allocate(tensors, budget)
    assert found.n_bytes <= budget
    assert found.choices.keys() == tensors.keys()
    best = min(sum(one.damage for one in picks.values()) for picks in fitting)
    # Everett: no choice within the bytes used is better; the gap to the budget is worth less than one step.
    steps = [one.damage - other.damage for choices in tensors.values() for one in choices for other in choices]
    assert found.damage <= best + max(steps) + 1e-9


@given(_TENSORS)
def test_more_bytes_are_never_worse(tensors: dict[str, list[Choice]]) -> None:
    most = sum(max(one.n_bytes for one in choices) for choices in tensors.values())
    least = sum(min(one.n_bytes for one in choices) for choices in tensors.values())
    assert allocate(tensors, most).damage == pytest.approx(
        sum(min(one.damage for one in choices) for choices in tensors.values())
    )
    assert allocate(tensors, least).n_bytes == least


def test_bytes_go_where_they_gain_most() -> None:
    types = {"small": 4, "large": 8}
    tensors = {
        name: [Choice(kind, n_bytes, damage * (2.0 if kind == "small" else 1.0)) for kind, n_bytes in types.items()]
        for name, damage in (("dull", 1.0), ("keen", 9.0), ("middling", 3.0))
    }
    found = allocate(tensors, 4 * 3 + 2 * 4)
    assert {name: one.type_name for name, one in found.choices.items()} == {
        "dull": "small",
        "keen": "large",
        "middling": "large",
    }
    assert found == Allocation(found.choices)
    assert found.n_bytes == 20


def test_a_budget_below_the_smallest_types_says_both_numbers() -> None:
    with pytest.raises(BudgetTooSmall, match=r"leaves 7 bytes .* take 8"):
        allocate({"a": [Choice("X", 8, 0.0)]}, 7)


def test_choices_are_checked() -> None:
    with pytest.raises(ValueError, match="damage nan"):
        Choice("X", 1, float("nan"))
