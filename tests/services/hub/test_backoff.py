"""Waiting: how long after a failure, what a server asks for, and a limit that connections share."""

from __future__ import annotations

import random
from email.utils import formatdate

import pytest

from qwenctl.services.hub.backoff import RetryPolicy, asked_delay_s
from qwenctl.services.hub.rate_limit import RateLimit


def test_delays_double_up_to_a_limit_and_differ() -> None:
    policy, chance = RetryPolicy(n_attempts=100, first_s=1, most_s=8), random.Random(1)
    for n_failures, longest in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 8), (99, 8)]:
        delays = [policy.delay_s(n_failures, None, chance) or 0 for _ in range(50)]
        assert longest / 2 <= min(delays) < max(delays) <= longest


def test_patience_ends() -> None:
    policy = RetryPolicy(n_attempts=3)
    assert [policy.delay_s(n, None, random.Random(1)) is None for n in (1, 2, 3)] == [False, False, True]


def test_a_server_is_given_the_time_it_asks_for_but_not_a_day() -> None:
    policy = RetryPolicy(first_s=0.1, most_s=0.2, most_asked_s=60)
    assert policy.delay_s(1, 42.0, random.Random(1)) == 42.0
    assert policy.delay_s(1, 86_400.0, random.Random(1)) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": formatdate(1_000_005, usegmt=True)}, 5.0),
        ({"Retry-After": formatdate(999_000, usegmt=True)}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": '"api";r=10;t=55'}, None),
        ({}, None),
    ],
)
def test_what_servers_ask_for(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_delay_s(headers, 1_000_000) == seconds


def test_a_limit_is_shared_and_idle_time_is_not_saved_up() -> None:
    now, slept = [100.0], list[float]()
    limit = RateLimit(1000, clock=lambda: now[0], sleep=slept.append)
    limit.take(500)
    limit.take(500)  # another connection, at the same moment
    now[0] += 60.0
    limit.take(100)
    assert slept == [0.5, 1.0, pytest.approx(0.1)]
