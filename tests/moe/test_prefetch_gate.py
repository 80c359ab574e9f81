"""The gate on made-up tokens: it finds the better side through noise, drift and bursts, and stays there."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.moe.prefetch_gate import GateRules, PrefetchGate

_PROBE = 2 * 4 * 16  # tokens
_FIRST = 512


@dataclass
class _Machine:
    """Tokens of 0.1 s; reading ahead saves a share of that; each token is off by a normally spread share."""

    saves: float = 0.0
    noise: float = 0.0
    n_prefetched: int = 10
    n_used: int = 7
    seed: int = 0
    at: Callable[[int], float] = lambda _: 1.0  # speed of the machine at a token
    decisions: list[bool] = field(default_factory=list)

    def run(self, gate: PrefetchGate, n_tokens: int) -> _Machine:
        source = random.Random(self.seed + len(self.decisions))
        for _ in range(n_tokens):
            is_on = gate.begin_token()
            seconds = 0.1 * (1 - self.saves * is_on) * self.at(len(self.decisions)) * source.gauss(1, self.noise)
            gate.end_token(max(seconds, 0), self.n_prefetched * is_on, self.n_used * is_on)
            self.decisions.append(is_on)
        return self

    def settled(self, start: int = _PROBE, n_tokens: int = _FIRST) -> bool:
        (decision,) = set(self.decisions[start : start + n_tokens])
        return decision


def test_windows_alternate_so_that_drift_cancels_out() -> None:
    decisions = _Machine().run(PrefetchGate(), _PROBE).decisions
    windows = [decisions[start : start + 16] for start in range(0, _PROBE, 16)]
    assert all(len(set(window)) == 1 for window in windows)
    assert [window[0] for window in windows] == [False, True, True, False, False, True, True, False]


@pytest.mark.parametrize(("saves", "expected"), [(0.3, True), (0.03, True), (0.01, False), (0.0, False), (-0.2, False)])
def test_the_better_side_is_taken_by_a_margin(saves: float, expected: bool) -> None:
    gate = PrefetchGate()
    machine = _Machine(saves).run(gate, _PROBE + _FIRST)
    assert machine.settled() is expected
    assert gate.gain == pytest.approx(saves)


@pytest.mark.parametrize("drift", [0.002, -0.001])
@pytest.mark.parametrize(("saves", "expected"), [(0.06, True), (0.0, False), (-0.06, False)])
def test_a_machine_that_slows_down_or_speeds_up(drift: float, saves: float, expected: bool) -> None:
    machine = _Machine(saves, at=lambda token: 1 + drift * token)
    assert machine.run(PrefetchGate(), _PROBE + 1).decisions[-1] is expected


def test_bursts_of_another_program_do_not_decide() -> None:
    """Two tokens of a window take fifty times as long; they fall into windows with reading ahead."""
    machine = _Machine(0.1, at=lambda token: 50.0 if token % 64 in (20, 26) else 1.0)
    assert machine.run(PrefetchGate(), _PROBE + 1).decisions[-1]


def test_gains_of_the_slow_tokens_count() -> None:
    """Two tokens of five wait for the disk. Only they gain, so the median token gains nothing."""
    gate, tokens = PrefetchGate(), 0
    for tokens in range(_PROBE):
        is_on = gate.begin_token()
        waits = tokens % 5 < 2
        gate.end_token(0.1 + waits * (0.05 if is_on else 0.2), 10 * is_on, 7 * is_on)
    assert gate.begin_token()


def test_noise_alone_does_not_switch_on() -> None:
    """Windows that differ by more than the gain say nothing."""
    verdicts = [_Machine(0.0, noise=0.3, seed=seed).run(PrefetchGate(), _PROBE + 1).decisions[-1] for seed in range(60)]
    assert sum(verdicts) <= 20


def test_a_gain_smaller_than_what_windows_differ_by_is_none() -> None:
    """Pairs of windows gain 30 %, lose 20 %, gain 30 %, lose 20 %: 5 % in the middle, which means nothing."""
    speeds = [1, 0.7, 1.2, 1, 1, 0.7, 1.2, 1]  # of windows off on, on off, off on, on off
    gate = PrefetchGate()
    _Machine(at=lambda token: speeds[token // 16]).run(gate, _PROBE)
    assert gate.gain == pytest.approx(0.05)
    assert not gate.begin_token()


def test_the_first_tokens_of_a_window_do_not_count() -> None:
    """They pay for the window before; two more that wait are borne, but not four of 16."""
    turns = {16, 17, 20, 26}  # after a turn on, and later in that window
    machine = _Machine(0.1, at=lambda token: 50.0 if token % 64 in turns else 1.0)
    assert machine.run(PrefetchGate(), _PROBE + 1).decisions[-1]


def test_probes_come_at_growing_intervals() -> None:
    gate = PrefetchGate()
    decisions = _Machine(0.3).run(gate, 40_000).decisions
    stretches = _stretches_settled_on(decisions)
    assert stretches[:5] == [512, 1024, 2048, 4096, 8192]


def test_the_longest_interval_is_kept() -> None:
    gate = PrefetchGate(rules=GateRules(first_interval_tokens=100, last_interval_tokens=300))
    assert _stretches_settled_on(_Machine(0.3).run(gate, 3000).decisions)[:4] == [100, 200, 300, 300]


def test_another_verdict_starts_with_the_first_interval() -> None:
    gate = PrefetchGate()
    machine = _Machine(0.3).run(gate, _PROBE + 512 + _PROBE + 1024)
    machine.saves = -0.3
    machine.run(gate, _PROBE)
    begun = len(machine.decisions)
    machine.run(gate, 511)
    assert not machine.settled(begun, 511)
    assert not gate.state.startswith("probing")
    machine.run(gate, 1)
    assert gate.state.startswith("probing")


def test_a_small_gain_keeps_what_a_small_gain_would_not_switch_on() -> None:
    gate = PrefetchGate()
    machine = _Machine(0.1).run(gate, _PROBE + 512)
    machine.saves = 0.01
    machine.run(gate, _PROBE + 1)
    assert machine.decisions[-1]
    assert not _Machine(0.01).run(PrefetchGate(), _PROBE + 1).decisions[-1]


def test_useless_reading_ends_a_settled_stretch_at_once() -> None:
    gate = PrefetchGate()
    machine = _Machine(0.3).run(gate, _PROBE + 10)
    assert machine.decisions[-1]
    machine.n_used = 0
    machine.run(gate, 40)
    assert not machine.decisions[-1]
    assert "used" in gate.state
    assert gate.usefulness < 0.25


def test_useless_reading_ends_a_probe_at_once() -> None:
    """128 experts read ahead are enough to know: 13 tokens of 10, after a window without."""
    gate = PrefetchGate()
    machine = _Machine(0.3, n_used=2).run(gate, _PROBE)
    assert sum(machine.decisions) == 13
    assert machine.decisions[16:29] == [True] * 13
    assert gate.n_prefetched == 130
    assert gate.n_used == 26


def test_what_has_nothing_to_read_stays_off() -> None:
    gate = PrefetchGate()
    machine = _Machine(0.3, n_prefetched=0, n_used=0).run(gate, _PROBE + 1)
    assert not machine.decisions[-1]
    assert "nothing" in gate.state


def test_resident_models_are_not_measured() -> None:
    gate = PrefetchGate(resident=True)
    assert not any(_Machine(0.3).run(gate, 300).decisions)
    assert "resident" in gate.state
    gate.set_resident(False)
    assert gate.state.startswith("probing")
    assert _Machine(0.3).run(gate, _PROBE + 1).decisions[-1]
    gate.set_resident(True)
    assert not gate.begin_token()


def test_requests_leave_nothing_to_measure() -> None:
    on, off = PrefetchGate("on"), PrefetchGate("off")
    assert all(_Machine(-0.5, n_used=0).run(on, 300).decisions)
    assert not any(_Machine(0.5).run(off, 300).decisions)
    assert (on.state, off.state) == ("on by request", "off by request")
    assert not PrefetchGate("on", resident=True).begin_token()


def test_states_are_said() -> None:
    gate = PrefetchGate()
    assert gate.state == "probing: window 1 of 8"
    _Machine(0.25).run(gate, _PROBE)
    assert gate.state == "on: tokens take 25.0% less time with it, ±0.0%"
    slower = PrefetchGate()
    _Machine(-0.25).run(slower, _PROBE)
    assert slower.state == "off: tokens take 25.0% more time with it, ±0.0%"


def test_tokens_that_take_no_time() -> None:
    assert not _Machine(1.0, at=lambda _: 0.0).run(PrefetchGate(), _PROBE + 1).decisions[-1]


@pytest.mark.parametrize(
    "wrong",
    [("skipped_tokens", 16), ("n_pairs", 0), ("first_interval_tokens", 0), ("last_interval_tokens", 100)],
)
def test_rules_that_measure_nothing(wrong: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match="GateRules"):
        GateRules(**dict([wrong]))


@given(st.integers(0, 10_000), st.floats(0, 0.04), st.floats(0.1, 0.5), st.booleans())
def test_no_flapping_where_one_side_is_clearly_better(seed: int, noise: float, effect: float, helps: bool) -> None:
    """Every settled stretch, through many probes, is the right one."""
    gate = PrefetchGate(rules=GateRules(first_interval_tokens=64, last_interval_tokens=128))
    machine = _Machine(effect if helps else -effect, noise, seed=seed)
    for _ in range(700):
        was_probing = gate.state.startswith("probing")
        machine.run(gate, 1)
        assert was_probing or machine.decisions[-1] is helps


@given(st.integers(0, 10_000), st.floats(0, 0.5), st.floats(-0.5, 0.5))
def test_switching_is_rare_whatever_the_noise(seed: int, noise: float, saves: float) -> None:
    """Never more than a window's turn, or an interval's: 4 a probe of 128 tokens, and at most one verdict in 640."""
    decisions = _Machine(saves, noise, seed=seed).run(PrefetchGate(), 2000).decisions
    n_probes = -(-2000 // (_PROBE + _FIRST))
    assert sum(a != b for a, b in pairwise(decisions)) <= 6 * n_probes


def _stretches_settled_on(decisions: list[bool]) -> list[int]:
    """Lengths of what lies between probes, for a gate that settles on: probes end with a window off."""
    lengths, run = [], 0
    for is_on in decisions:
        if not is_on and run > 32:
            lengths.append(run)
        run = run + 1 if is_on else 0
    return lengths
