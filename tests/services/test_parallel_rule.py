"""The number of sequences that pay, by what steps took."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.services.engine_options import MAX_PARALLEL, Purpose
from qwenctl.services.parallel_rule import StepLine, StepTime, choose_measured, fit_line

TWO_CORES = (0.67, 0.33)  # of the time of one: SmolLM2-135M
A_GPU = (0.94, 0.06)

shares = st.floats(0, 1)
numbers = st.sampled_from([2**power for power in range(8)])
purposes = st.sampled_from(["batch", "serve"])
errors = st.floats(0.9, 1.1)


def line(fixed: float, sequence: float, n_measured: int = MAX_PARALLEL) -> StepLine:
    return StepLine(0.001 * fixed, 0.001 * sequence, n_measured)


def steps(times: dict[int, float], n_steps: int = 100) -> dict[int, StepTime]:
    return {n: StepTime(n_steps, seconds) for n, seconds in times.items()}


@pytest.mark.parametrize(
    ("purpose", "shape", "former", "n_parallel", "bound"),
    [
        ("batch", TWO_CORES, 16, 16, "gain"),  # from 8 to 16: 11 %; to 32: 6 %
        ("serve", TWO_CORES, 8, 8, "share"),  # 30 % of one alone; at 16: 17 %
        ("batch", A_GPU, 32, 64, "gain"),
        ("serve", A_GPU, 16, 32, "share"),
        ("batch", (0.05, 0.95), 16, 8, "gain"),  # the processor is busy with one: half as many as the last time
        ("batch", (0.05, 0.95), 4, 2, "gain"),
        ("batch", (1, 0), 16, 128, "measured"),  # up to what llama.cpp takes
    ],
)
def test_as_many_as_pay(purpose: Purpose, shape: tuple[float, float], former: int, n_parallel: int, bound: str) -> None:
    choice = choose_measured(purpose, line(*shape), former)
    assert (choice.n_parallel, choice.bound) == (n_parallel, bound)


@given(purpose=purposes, shares=st.tuples(shares, shares), former=numbers)
def test_the_dearer_a_sequence_the_fewer(purpose: Purpose, shares: tuple[float, float], former: int) -> None:
    dear, cheap = (choose_measured(purpose, line(1 - part, part), former) for part in sorted(shares, reverse=True))
    assert dear.n_parallel <= cheap.n_parallel


@given(purpose=purposes, part=shares, former=numbers, n_measured=st.integers(1, MAX_PARALLEL))
def test_at_most_twice_what_was_measured(purpose: Purpose, part: float, former: int, n_measured: int) -> None:
    chosen = choose_measured(purpose, line(1 - part, part, n_measured), former).n_parallel
    assert 2 <= chosen <= max(2, min(2 * n_measured, MAX_PARALLEL))
    assert chosen.bit_count() == 1


@given(purpose=purposes, part=shares, former=numbers, noise=st.lists(st.tuples(errors, errors), max_size=12))
def test_noise_moves_it_one_way_at_most(
    purpose: Purpose, part: float, former: int, noise: list[tuple[float, float]]
) -> None:
    for _ in range(8):  # half of the former a time
        former = choose_measured(purpose, line(1 - part, part), former).n_parallel
    chosen = [former]
    for fixed, sequence in noise:
        noisy = line((1 - part) * fixed, part * sequence)
        chosen.append(choose_measured(purpose, noisy, chosen[-1]).n_parallel)
    assert chosen in (sorted(chosen), sorted(chosen, reverse=True))
    assert max(chosen) <= 2 * min(chosen)


def test_a_clear_change_moves_it() -> None:
    chosen = [16]
    for fixed in (0.67, 0.9, 0.9, 0.2, 0.2, 0.2, 0.9):
        chosen.append(choose_measured("batch", line(fixed, 1 - fixed), chosen[-1]).n_parallel)
    assert chosen == [16, 16, 32, 32, 16, 8, 4, 32]


def test_a_line_through_times() -> None:
    exact = fit_line(steps({n: 0.002 + 0.001 * n for n in (1, 3, 8)}))
    assert exact is not None
    assert (exact.fixed_s, exact.sequence_s, exact.n_measured) == pytest.approx((0.002, 0.001, 8))
    assert exact.seconds(16) == pytest.approx(0.018)
    assert exact.tokens_s(8) == pytest.approx(800)
    assert exact.gain(8) == pytest.approx(16 / 0.018 / 800 - 1)
    assert exact.share(8) == pytest.approx(0.3)


def test_few_steps_count_little() -> None:
    known = {1: StepTime(256, 1.0), 8: StepTime(256, 8 * 0.3 + 0.7), 16: StepTime(1, 50.0)}
    fitted = fit_line(known)
    assert fitted is not None
    assert fitted.seconds(8) == pytest.approx(3.1, rel=0.02)


@pytest.mark.parametrize("times", [{}, {8: 0.01}, {1: 0.01}, {5: 0.01, 6: 0.011, 9: 0.02}])
def test_too_little_for_a_line(times: dict[int, float]) -> None:
    assert fit_line(steps(times)) is None


@pytest.mark.parametrize("times", [{1: 0.01, 4: 0.005}, {1: 0.01, 4: 0.09}, {1: 1e-9, 192: 1e6}])
def test_no_part_of_a_line_is_below_zero(times: dict[int, float]) -> None:
    fitted = fit_line(steps(times))
    assert fitted is not None
    assert min(fitted.fixed_s, fitted.sequence_s) == 0


@given(st.dictionaries(st.integers(1, MAX_PARALLEL), st.tuples(st.integers(1, 512), st.floats(1e-6, 1e3)), min_size=2))
def test_any_times_give_a_number(times: dict[int, tuple[int, float]]) -> None:
    fitted = fit_line({n: StepTime(*one) for n, one in times.items()})
    for purpose, former in product(("batch", "serve"), (1, 8, 16, 192)):
        if fitted is not None:
            assert 2 <= choose_measured(purpose, fitted, former).n_parallel <= MAX_PARALLEL  # type: ignore[arg-type]


@pytest.mark.parametrize("parts", [(-0.1, 1.0), (1.0, -0.1), (0.0, 0.0), (float("nan"), 1.0), (float("inf"), 0.0)])
def test_a_line_that_is_none(parts: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="seconds"):
        StepLine(*parts, 8)
