"""Made-up routing has the locality that was published (the figures are in synthetic_trace.py, with their sources)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from qwenctl.moe.replay import replay
from qwenctl.moe.synthetic_trace import QWEN3_8_FLASH_NEXT, QWEN3_30B_A3B, synthetic_trace
from qwenctl.telemetry.routing_steps import RoutingStep, RoutingTrace

N_LAYERS = 10


@pytest.fixture(scope="module")
def trace() -> RoutingTrace:
    return synthetic_trace(QWEN3_30B_A3B, N_LAYERS, 1500, seed=1)


def ids_of(trace: RoutingTrace, layer: int) -> npt.NDArray[np.int64]:
    """Return (n_tokens, n_used)."""
    return np.array([step.ids for step in trace.of_layer(layer)])


def reuse_distances(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each use that is not an expert's first the tokens since the one before."""
    last: dict[int, int] = {}
    found = []
    for token, row in enumerate(ids.tolist()):
        found += [token - last[expert] for expert in row if expert in last]
        last |= dict.fromkeys(row, token)
    return np.array(found)


def n_experts_of_mass(ids: npt.NDArray[np.int64], mass: float) -> int:
    uses = np.sort(np.bincount(ids.ravel(), minlength=128))[::-1]
    return int(np.searchsorted(np.cumsum(uses) / uses.sum(), mass) + 1)


def held_out_hits(ids: npt.NDArray[np.int64], n_slots: int) -> float:
    """Return what the most used experts of the first half cover of the second."""
    half = len(ids) // 2
    chosen = np.argsort(-np.bincount(ids[:half].ravel(), minlength=128))[:n_slots]
    return float(np.isin(ids[half:], chosen).mean())


def test_every_token_goes_to_different_experts(trace: RoutingTrace) -> None:
    assert all(len(set(step.ids)) == 8 for step in trace.steps)
    assert trace.n_tokens == 1500
    assert synthetic_trace(QWEN3_30B_A3B, 2, 20, seed=3) == synthetic_trace(QWEN3_30B_A3B, 2, 20, seed=3)
    assert synthetic_trace(QWEN3_30B_A3B, 2, 20, seed=3) != synthetic_trace(QWEN3_30B_A3B, 2, 20, seed=4)


def test_experts_come_back_as_soon_as_those_of_qwen3_30b(trace: RoutingTrace) -> None:
    distances = [reuse_distances(ids_of(trace, layer)) for layer in range(1, N_LAYERS)]
    everywhere = np.concatenate(distances)
    assert np.median(everywhere) == 2
    assert np.mean(everywhere == 1) == pytest.approx(0.45, abs=0.03)
    assert np.mean(everywhere <= 8) == pytest.approx(0.80, abs=0.03)


def test_uses_are_spread_as_those_of_qwen3_30b(trace: RoutingTrace) -> None:
    n_for_mass = np.mean([n_experts_of_mass(ids_of(trace, layer), 0.9) for layer in range(1, N_LAYERS)])
    assert 58 <= n_for_mass <= 65
    held_out = np.mean([held_out_hits(ids_of(trace, layer), 51) for layer in range(1, N_LAYERS)])
    assert 0.67 <= held_out <= 0.74


def test_per_layer_lru_hits_as_on_qwen3_30b(trace: RoutingTrace) -> None:
    rates = replay(trace, "lru", 51 * N_LAYERS).layer_hit_rates
    assert 0.90 <= np.mean(rates[1:]) <= 0.95
    assert min(rates[1:]) >= 0.88
    assert max(rates[1:]) <= 0.96


def test_the_first_layer_is_near_uniform(trace: RoutingTrace) -> None:
    assert n_experts_of_mass(ids_of(trace, 0), 0.9) > 85
    assert replay(trace, "lru", 51 * N_LAYERS).layer_hit_rates[0] < 0.7


def test_low_locality_is_that_of_qwen3_8_flash_next() -> None:
    trace = synthetic_trace(QWEN3_8_FLASH_NEXT, 2, 340, seed=1)
    published = {93: 0.435, 186: 0.62, 279: 0.72, 372: 0.79, 512: 0.85}
    measured = {n_slots: replay(trace, "lru", 2 * n_slots).hit_rate for n_slots in published}
    assert measured == pytest.approx(published, abs=0.025)


def test_no_variation_but_noise_is_uniform_routing() -> None:
    still = replace(QWEN3_30B_A3B, bias=0.0, topic=0.0, drift=0.0, burst=0.0)
    trace = synthetic_trace(still, 1, 2000, seed=1)
    steady = RoutingTrace(1, 128, 8, tuple(RoutingStep(0, step.ids, 1) for step in trace.steps))
    assert replay(steady, "lru", 51).hit_rate == pytest.approx(51 / 128, abs=0.02)
