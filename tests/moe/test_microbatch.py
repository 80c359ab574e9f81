"""The choice of the micro-batch at true sizes: both extremes, and what may only go one way."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.moe.microbatch import (
    N_UBATCHES,
    Candidate,
    PrefillRates,
    choose_ubatch,
    experts_used,
    miss_s,
    prefill_s,
)
from tests.moe.true_sizes import true_size

SMALL, LARGE = true_size("Qwen3-30B-A3B"), true_size("Qwen3-235B-A22B")
SLOTS = st.floats(0, 128)
EVEN = ((1.0, 100e9),)  # a CPU that gains nothing from more tokens an expert


def candidates(*slots: float) -> list[Candidate]:
    return [Candidate(n_ubatch, n_slots) for n_ubatch, n_slots in zip(N_UBATCHES, slots, strict=False)]


def test_experts_used_by_a_few_tokens_and_by_many() -> None:
    assert experts_used(128, 8, 1) == pytest.approx(8)
    assert experts_used(128, 8, 2) == pytest.approx(15.5)
    assert 125 < experts_used(128, 8, 64) < 127
    assert experts_used(128, 8, 4096) == pytest.approx(128)
    assert experts_used(8, 8, 1) == 8


@given(st.integers(1, 5000), st.integers(1, 64))
def test_more_tokens_use_more_experts_but_never_more_than_there_are(n_tokens: int, n_used: int) -> None:
    before, after = experts_used(128, n_used, n_tokens), experts_used(128, n_used, n_tokens + 1)
    assert min(n_used, 128) <= before * (1 + 1e-12)
    assert before <= after <= 128


def test_with_everything_resident_the_smallest_does() -> None:
    assert choose_ubatch(SMALL, PrefillRates(1e9, EVEN), candidates(128, 128, 128, 128)) == 512
    assert choose_ubatch(LARGE, PrefillRates(1e9, EVEN), candidates(128, 128, 128, 128)) == 512


def test_a_cpu_that_is_faster_with_many_tokens_an_expert_gets_them() -> None:
    rates = PrefillRates(1e9, ((32, 43e9), (512, 149e9)))
    assert choose_ubatch(SMALL, rates, candidates(128, 128, 128, 128)) == 4096


def test_on_a_slow_disk_the_largest_that_fits() -> None:
    slow = PrefillRates(0.2e9, EVEN)
    assert choose_ubatch(LARGE, slow, candidates(14, 13.5, 13, 12)) == 4096
    assert choose_ubatch(LARGE, slow, candidates(14, 13.5, 13)) == 2048


def test_on_a_fast_disk_the_cpu_is_the_bound_and_the_smallest_does() -> None:
    fast = PrefillRates(1e12, EVEN)
    assert choose_ubatch(SMALL, fast, candidates(20, 18, 14, 8)) == 512


def test_activations_that_take_the_slots_are_not_worth_a_few_reads() -> None:
    rates = PrefillRates(0.5e9, EVEN)
    assert choose_ubatch(SMALL, rates, candidates(40, 39, 37, 33)) == 2048
    assert choose_ubatch(SMALL, rates, candidates(60, 30, 12, 8)) == 512


def test_no_candidate_is_an_error() -> None:
    with pytest.raises(ValueError, match="no micro-batch"):
        choose_ubatch(SMALL, PrefillRates(), [])


@given(SLOTS, SLOTS, st.sampled_from(N_UBATCHES), st.floats(1e8, 1e11))
def test_more_slots_never_cost_time(fewer: float, more: float, n_ubatch: int, disk_bytes_s: float) -> None:
    fewer, more = sorted((fewer, more))
    rates = PrefillRates(disk_bytes_s)
    assert prefill_s(SMALL, rates, Candidate(n_ubatch, more)) <= prefill_s(SMALL, rates, Candidate(n_ubatch, fewer))
    assert miss_s(SMALL, rates, more) <= miss_s(SMALL, rates, fewer)


@given(SLOTS, st.floats(1e8, 1e11), st.floats(1, 10), st.sampled_from(N_UBATCHES))
def test_a_faster_disk_never_costs_time(n_slots: float, disk_bytes_s: float, factor: float, n_ubatch: int) -> None:
    slow, fast = PrefillRates(disk_bytes_s, EVEN), PrefillRates(factor * disk_bytes_s, EVEN)
    candidate = Candidate(n_ubatch, n_slots)
    assert prefill_s(SMALL, fast, candidate) <= prefill_s(SMALL, slow, candidate)


@given(SLOTS, st.floats(1e8, 1e11))
def test_a_larger_micro_batch_with_the_same_slots_never_costs_time(n_slots: float, disk_bytes_s: float) -> None:
    rates = PrefillRates(disk_bytes_s, EVEN)
    seconds = [prefill_s(SMALL, rates, Candidate(n_ubatch, n_slots)) for n_ubatch in N_UBATCHES]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(seconds))


def test_disk_bound_time_is_bytes_over_rate() -> None:
    """Nothing resident, one pass: all experts are read once."""
    rates = PrefillRates(1e8, EVEN, 1e15)
    read_bytes = 128 * sum(SMALL.expert_bytes)
    assert prefill_s(SMALL, rates, Candidate(4096, 0), 4096) == pytest.approx(read_bytes / 1e8, rel=1e-3)
    assert prefill_s(SMALL, rates, Candidate(512, 0), 4096) == pytest.approx(8 * read_bytes / 1e8, rel=1e-3)


def test_a_last_short_pass_counts_by_its_tokens() -> None:
    rates = PrefillRates(1e8, EVEN, 1e15)
    one_more = prefill_s(SMALL, rates, Candidate(512, 0), 513) - prefill_s(SMALL, rates, Candidate(512, 0), 512)
    assert one_more == pytest.approx(8 * sum(SMALL.expert_bytes) / 1e8, rel=1e-3)


def test_miss_rates_are_near_the_published_ones() -> None:
    per_miss_s = SMALL.n_experts_used * sum(SMALL.expert_bytes) / PrefillRates().disk_bytes_s
    for share, low, high in ((0.12, 0.4, 0.55), (0.24, 0.15, 0.3), (0.40, 0.04, 0.1), (1.0, 0, 0)):
        assert low <= miss_s(SMALL, PrefillRates(), 128 * share) / per_miss_s <= high


def test_rates_between_and_beyond_the_measured_ones() -> None:
    rates = PrefillRates(1e9, ((1, 50e9), (33, 82e9), (512, 150e9)))
    assert rates.expert_rate(0.1) == 50e9
    assert rates.expert_rate(1) == 50e9
    assert rates.expert_rate(17) == pytest.approx(66e9)
    assert rates.expert_rate(33) == 82e9
    assert rates.expert_rate(9999) == 150e9


@pytest.mark.parametrize(
    ("disk", "experts"), [(0.0, EVEN), (1e9, ()), (1e9, ((32, 1e9), (1, 1e9))), (1e9, ((1, 0.0),))]
)
def test_rates_that_no_machine_has(disk: float, experts: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError):
        PrefillRates(disk, experts)


def test_rearranging_what_streams_counts_and_favours_larger_batches() -> None:
    quick = PrefillRates(9e9, EVEN)
    slow = PrefillRates(9e9, EVEN, arrange_bytes_s=5e9)
    one = Candidate(512, 32)
    missing = experts_used(128, 8, 512) * (1 - 32 / 128)
    more_s = 8 * missing * sum(SMALL.expert_bytes) / 5e9  # of 4,096 tokens
    assert prefill_s(SMALL, slow, one) == pytest.approx(prefill_s(SMALL, quick, one) + more_s)
    assert choose_ubatch(SMALL, quick, candidates(32, 31, 30, 29)) < choose_ubatch(
        SMALL, slow, candidates(32, 31, 30, 29)
    )
    with pytest.raises(ValueError, match="above zero"):
        PrefillRates(arrange_bytes_s=0)
