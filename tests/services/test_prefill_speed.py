"""How long a prompt takes, learnt from its beginning."""

from __future__ import annotations

import pytest

from qwenctl.services.prefill_speed import PrefillRates, PrefillSpeed


def learnt(rates: PrefillRates, n_chunks: int, n_tokens: int = 512) -> PrefillSpeed:
    speed = PrefillSpeed()
    for chunk in range(n_chunks):
        first = chunk * n_tokens
        speed.observe(first, n_tokens, rates.seconds(first, first + n_tokens))
    return speed


def expected_s(speed: PrefillSpeed, first: int, end: int) -> float:
    assert speed.rates is not None
    return speed.rates.seconds(first, end)


def test_nothing_is_known_before_the_first_chunk() -> None:
    speed = PrefillSpeed()
    assert speed.rates is None
    speed.observe(0, 0, 1.0)
    speed.observe(0, 10, 0.0)
    assert speed.rates is None


def test_the_first_chunk_gives_a_rate() -> None:
    assert expected_s(learnt(PrefillRates(0.01, 0.0), 1), 512, 1024) == pytest.approx(5.12)


def test_later_chunks_are_expected_to_be_slower_where_attention_is() -> None:
    true = PrefillRates(0.002, 1e-6)
    speed = learnt(true, 4)
    assert expected_s(speed, 2048, 32768) == pytest.approx(true.seconds(2048, 32768), rel=1e-3)
    plain = true.seconds(0, 2048) / 2048 * (32768 - 2048)
    assert expected_s(speed, 2048, 32768) > 3 * plain


def test_a_part_and_the_rest_are_the_whole() -> None:
    rates = PrefillRates(0.002, 1e-6)
    assert rates.seconds(0, 700) + rates.seconds(700, 2000) == pytest.approx(rates.seconds(0, 2000))
    assert rates.seconds(50, 40) == 0


@pytest.mark.parametrize("seconds", [[9.0, 3.0, 2.0, 2.0], [1.0, 8.0, 20.0, 40.0], [1.0, 1.0, 1.0, 1.0]])
def test_no_rate_is_negative(seconds: list[float]) -> None:
    """A slow first chunk (cold caches) looks like attention that costs less than nothing."""
    speed = PrefillSpeed()
    for chunk, one in enumerate(seconds):
        speed.observe(chunk * 100, 100, one)
    assert speed.rates is not None
    assert min(speed.rates) >= 0
    assert expected_s(speed, 400, 800) > 0


def test_what_was_seen_last_counts_most() -> None:
    speed = learnt(PrefillRates(0.1, 0.0), 20)
    for chunk in range(20, 60):
        speed.observe(chunk * 512, 512, 512 * 0.01)
    assert expected_s(speed, 60 * 512, 61 * 512) < 1.3 * 5.12
