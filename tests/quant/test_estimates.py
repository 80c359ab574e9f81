"""Means and their errors against sums worked out term by term, as llama-perplexity does it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant.estimates import Estimate, mean_of

numbers = st.lists(st.floats(-50, 50, width=32), min_size=11, max_size=60)


@given(numbers)
def test_mean_and_error_are_those_of_running_sums(values: list[float]) -> None:
    total, squares = sum(values), sum(value * value for value in values)
    mean = total / len(values)
    variance = max(0.0, squares / len(values) - mean * mean)
    found = mean_of(np.array(values, np.float32))
    assert found.value == pytest.approx(mean, abs=1e-9)
    assert found.error == pytest.approx(math.sqrt(variance / (len(values) - 1)), abs=1e-5)


@given(st.lists(st.booleans(), min_size=2, max_size=200))
def test_the_error_of_a_share(marks: list[bool]) -> None:
    share = sum(marks) / len(marks)
    found = mean_of(np.array(marks))
    assert found.value == pytest.approx(share)
    assert found.error == pytest.approx(math.sqrt(share * (1 - share) / (len(marks) - 1)))


def test_one_value_has_no_error_and_none_no_mean() -> None:
    assert mean_of(np.array([3.0])) == Estimate(3.0, 0.0)
    with pytest.raises(ValueError, match="no values"):
        mean_of(np.array([]))


def test_derived_values_carry_their_errors_along() -> None:
    assert Estimate(2.0, 0.1).exp() == Estimate(pytest.approx(math.e**2), pytest.approx(0.1 * math.e**2))
    assert Estimate(4.0, 0.2).root() == Estimate(2.0, pytest.approx(0.05))
    assert Estimate(0.0, 0.0).root() == Estimate(0.0, 0.0)
    assert Estimate(1000.0, 1.0).exp().value == math.inf
