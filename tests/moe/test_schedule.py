"""The split of a layer's experts over device and CPU, against every split there is; uploads; costs that follow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.moe.costs import CostCurve, Costs, Measured, updated
from qwenctl.moe.schedule import LayerPlan, Routed, plan_equals, plan_layer, plan_uploads

seconds = st.floats(1e-5, 1e-2)


@st.composite
def curves(draw: st.DrawFn) -> CostCurve:
    first = draw(seconds)
    steps = draw(st.lists(st.floats(0, 1e-2), min_size=2, max_size=2))
    return CostCurve((1, 8, 64), (first, first + steps[0], first + sum(steps)))


@st.composite
def all_costs(draw: st.DrawFn) -> Costs:
    return Costs(draw(curves()), draw(curves()), draw(st.just(0.0) | seconds), draw(seconds), *draw(uploads()))


@st.composite
def uploads(draw: st.DrawFn) -> tuple[float, float]:
    alone = draw(seconds)
    return alone, alone * draw(st.floats(1, 3))


@st.composite
def steps(draw: st.DrawFn, most_tokens: int = 100) -> list[Routed]:
    n = draw(st.integers(1, 7))
    return [Routed(e, draw(st.integers(1, most_tokens)), draw(st.booleans()), draw(st.booleans())) for e in range(n)]


def played(routed: Sequence[Routed], device: frozenset[int], costs: Costs) -> float:
    """When a split ends, told by the plan's rules a second time: two queues that take what arrives."""
    cpu = [r for r in routed if r.expert not in device]
    upload_s = costs.loaded_upload_s_per_expert if cpu else costs.upload_s_per_expert
    work = {
        r.expert: costs.device(r.n_tokens) + (0.0 if r.on_device else upload_s)
        if r.expert in device
        else costs.cpu(r.n_tokens)
        for r in routed
    }
    order = sorted(routed, key=lambda r: (-work[r.expert], r.expert))
    loads = [r for r in order if not r.in_ram and not (r.on_device and r.expert in device)]
    arrival = {r.expert: (index + 1) * costs.disk_s_per_expert for index, r in enumerate(loads)}
    clock = {"device": costs.device_call_s, "cpu": 0.0}
    for r in sorted(order, key=lambda r: arrival.get(r.expert, 0.0)):
        side = "device" if r.expert in device else "cpu"
        clock[side] = max(clock[side], arrival.get(r.expert, 0.0)) + work[r.expert]
    return max(clock["device"] if device else 0.0, clock["cpu"])


def every_split(routed: Sequence[Routed], max_uploads_now: int) -> list[frozenset[int]]:
    experts = [r.expert for r in routed]
    moved = {r.expert for r in routed if not r.on_device}
    splits = [frozenset(c) for size in range(len(experts) + 1) for c in combinations(experts, size)]
    return [split for split in splits if len(split & moved) <= max_uploads_now]


def check_conservation(plan: LayerPlan, routed: Sequence[Routed]) -> None:
    assert sorted(plan.device + plan.cpu) == sorted(r.expert for r in routed)
    where = {r.expert: r for r in routed}
    assert set(plan.uploads_now) == {e for e in plan.device if not where[e].on_device}
    needed = {e for e in plan.cpu if not where[e].in_ram} | {e for e in plan.uploads_now if not where[e].in_ram}
    assert set(plan.loads) == needed
    assert len(plan.loads) == len(needed)
    waiting = [e for e in plan.cpu if e in needed]
    assert plan.cpu[len(plan.cpu) - len(waiting) :] == tuple(e for e in plan.loads if e in set(waiting))


@given(steps(), all_costs(), st.integers(0, 7))
def test_a_plan_is_never_worse_than_one_side_alone_or_each_expert_where_it_lies(
    routed: list[Routed], costs: Costs, max_uploads_now: int
) -> None:
    plan = plan_layer(routed, costs, max_uploads_now)
    check_conservation(plan, routed)
    assert len(plan.uploads_now) <= max_uploads_now
    assert plan.ends_s == pytest.approx(played(routed, frozenset(plan.device), costs))
    everything = frozenset(r.expert for r in routed)
    baselines = [frozenset(), frozenset(r.expert for r in routed if r.on_device)]
    if sum(not r.on_device for r in routed) <= max_uploads_now:
        baselines.append(everything)
    for baseline in baselines:
        assert plan.ends_s <= played(routed, baseline, costs) * (1 + 1e-9)


@given(steps(), all_costs(), st.integers(0, 7))
def test_with_everything_in_ram_no_split_ends_sooner_by_more_than_one_expert(
    routed: list[Routed], costs: Costs, max_uploads_now: int
) -> None:
    routed = [Routed(r.expert, r.n_tokens, r.on_device, in_ram=True) for r in routed]
    plan = plan_layer(routed, costs, len(routed))
    best_s = min(played(routed, split, costs) for split in every_split(routed, len(routed)))
    upload_s = costs.loaded_upload_s_per_expert
    slowest_s = max(max(costs.cpu(r.n_tokens), costs.device(r.n_tokens) + upload_s) for r in routed)
    assert plan.ends_s <= best_s + slowest_s


@given(steps(most_tokens=1), all_costs(), st.integers(0, 7))
def test_in_a_decode_step_no_split_ends_sooner(routed: list[Routed], costs: Costs, max_uploads_now: int) -> None:
    kinds = [(True, False), (True, True), (False, True), (False, False)]
    members = [[r.expert for r in routed if (r.on_device, r.in_ram) == kind] for kind in kinds]
    only, both, ram, nowhere = map(len, members)
    taken = plan_equals(costs, (only, both, ram, nowhere), max_uploads_now)
    device = frozenset(e for experts, n in zip(members, taken, strict=True) for e in experts[:n])
    assert len(device - set(members[0]) - set(members[1])) <= max_uploads_now
    best_s = min(played(routed, split, costs) for split in every_split(routed, max_uploads_now))
    assert played(routed, device, costs) <= best_s * (1 + 1e-9)


@given(steps(), all_costs(), st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_given(routed: list[Routed], costs: Costs, random: object) -> None:
    shuffled = list(routed)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan_layer(shuffled, costs, 3) == plan_layer(routed, costs, 3)


def costs_of(cpu_s: float = 1.0, device_s: float = 0.1, call_s: float = 0.0, upload_s: float = 2.0) -> Costs:
    return Costs(CostCurve((1,), (cpu_s,)), CostCurve((1,), (device_s,)), call_s, 5.0, upload_s, upload_s)


def test_the_split_follows_the_measured_rates() -> None:
    # 8 misses; an upload and its computing take 2.1, the CPU 1.0: m * B_P / B_H = 8 / 3.1 = 2.6 of them go over.
    routed = [Routed(e, 1, on_device=False, in_ram=True) for e in range(8)]
    assert len(plan_layer(routed, costs_of(), 8).uploads_now) in {2, 3}
    assert plan_equals(costs_of(), (0, 0, 8, 0), 8) == (0, 0, 2, 0)
    assert plan_equals(costs_of(upload_s=0.0), (0, 0, 8, 0), 8) == (0, 0, 8, 0)
    assert plan_equals(costs_of(upload_s=20.0), (0, 0, 8, 0), 8) == (0, 0, 0, 0)


def test_a_slow_device_call_keeps_one_expert_on_the_cpu_when_its_weights_are_there() -> None:
    assert plan_equals(costs_of(call_s=3.0), (0, 1, 1, 0)) == (0, 0, 0, 0)
    assert plan_equals(costs_of(call_s=3.0), (1, 0, 1, 0)) == (1, 0, 0, 0)  # reading it would take 5
    assert plan_equals(costs_of(call_s=3.0), (0, 8, 0, 0)) == (0, 5, 0, 0)  # ends at 3.5 and 3.0


def test_what_is_in_ram_computes_while_the_rest_is_read_longest_work_first() -> None:
    routed = [Routed(0, 3, False, False), Routed(1, 9, False, False), Routed(2, 5, False, True)]
    plan = plan_layer(routed, costs_of())
    assert plan.loads == (1, 0)
    assert plan.cpu == (2, 1, 0)
    assert plan.device == ()
    assert plan.cpu_s == pytest.approx(max(5 + 9, 10) + 3)  # read by 5, computed by 14; the other was read by 10


def test_uploads_pay_back_or_are_not_made() -> None:
    costs = costs_of()
    plan = plan_layer([Routed(e, 1, on_device=e < 2, in_ram=True) for e in range(8)], costs)
    assert plan.ends_s == 6.0
    hot, warm = (6, 50.0), (7, 3.9)  # 2 s of upload, twice over, against 1 s saved a use
    assert plan_uploads(plan, costs, [warm, hot], [], n_free=4, max_uploads=4) == ((6, -1),)
    assert plan_uploads(plan, costs, [warm, (5, 4.1), hot], [], n_free=4, max_uploads=4) == ((6, -1), (5, -1))
    assert plan_uploads(plan, costs, [hot, (5, 49.0)], [], n_free=4, max_uploads=1) == ((6, -1),)
    assert plan_uploads(plan, costs, [hot], [(0, 24.0), (1, 30.0)], n_free=0, max_uploads=4) == ((6, 0),)
    assert plan_uploads(plan, costs, [hot], [(0, 26.0), (1, 30.0)], n_free=0, max_uploads=4) == ()
    assert plan_uploads(plan, costs, [hot], [], n_free=0, max_uploads=4) == ()


def test_a_device_slot_is_worth_the_reads_that_it_spares() -> None:
    costs = costs_of(cpu_s=0.1, device_s=0.05, call_s=1.0)  # a read takes 5
    resident = LayerPlan(device=(), uploads_now=(), cpu=(0, 1, 2, 3), loads=(), device_s=0.0, cpu_s=0.4)
    reading = LayerPlan(device=(), uploads_now=(), cpu=(0, 1, 2, 3), loads=(3,), device_s=0.0, cpu_s=5.4)
    assert plan_uploads(resident, costs, [(0, 1e9)], [], n_free=1, max_uploads=1) == ()
    assert plan_uploads(reading, costs, [(0, 3.0)], [], n_free=1, max_uploads=1) == ((0, -1),)  # 3 × 1.35 > 2 × 2.0
    assert plan_uploads(reading, costs, [(0, 2.9)], [], n_free=1, max_uploads=1) == ()


def test_no_upload_to_a_device_that_is_the_slower_side() -> None:
    costs = costs_of(device_s=1.0)
    plan = LayerPlan(device=(0, 1), uploads_now=(), cpu=(2,), loads=(), device_s=2.0, cpu_s=1.0)
    assert plan_uploads(plan, costs, [(2, 1e9)], [], n_free=1, max_uploads=1) == ()


@given(st.lists(st.floats(0.1, 100), min_size=4, max_size=10), st.integers(1, 4))
def test_experts_of_steady_heat_do_not_change_places_for_ever(heats: list[float], n_slots: int) -> None:
    costs = costs_of()
    plan = LayerPlan(device=(), uploads_now=(), cpu=(0, 1, 2, 3), loads=(), device_s=0.0, cpu_s=9.0)
    resident: set[int] = set()
    for _ in range(50):
        pairs = [(e, heat) for e, heat in enumerate(heats)]
        moves = plan_uploads(
            plan,
            costs,
            [p for p in pairs if p[0] not in resident],
            [p for p in pairs if p[0] in resident],
            n_free=n_slots - len(resident),
            max_uploads=1,
        )
        resident = (resident | {e for e, _ in moves}) - {victim for _, victim in moves}
        assert len(resident) <= n_slots
    assert moves == ()


def test_costs_move_towards_what_is_measured_and_nothing_else_moves() -> None:
    costs = Costs(CostCurve((1, 8, 64), (1.0, 2.0, 8.0)), CostCurve((1,), (0.1,)), 0.1, 5.0, 2.0, 3.0)
    for _ in range(200):
        costs = updated(costs, Measured(cpu_counts=(8, 8), cpu_s=6.0, n_loads=4, load_s=8.0))
    assert costs.cpu(8) == pytest.approx(3.0)
    assert costs.cpu(1) == 1.0
    assert costs.cpu(64) == 8.0
    assert costs.disk_s_per_expert == pytest.approx(2.0)
    assert (costs.device, costs.device_call_s, costs.upload_s_per_expert) == (CostCurve((1,), (0.1,)), 0.1, 2.0)
    for _ in range(200):
        costs = updated(costs, Measured(device_counts=(1, 1), device_s=0.9, n_uploads=2, upload_s=2.0))
    assert costs.device_call_s + costs.device.total((1, 1)) == pytest.approx(0.9)
    assert (costs.upload_s_per_expert, costs.loaded_upload_s_per_expert) == (pytest.approx(1.0), 3.0)


@given(all_costs(), st.lists(st.integers(1, 200), min_size=1, max_size=5), seconds)
def test_one_measurement_moves_costs_a_little_and_keeps_curves_rising(
    costs: Costs, counts: list[int], measured_s: float
) -> None:
    before, after = costs.cpu, updated(costs, Measured(cpu_counts=tuple(counts), cpu_s=measured_s)).cpu
    assert all(a <= b for a, b in zip(after.seconds, after.seconds[1:], strict=False))
    low, high = sorted((before.total(counts), measured_s))
    assert low * (1 - 1e-9) <= after.total(counts) <= high * (1 + 1e-9)


def test_a_step_the_machine_slept_through_is_no_news() -> None:
    costs = updated(costs_of(), Measured(cpu_counts=(1,), cpu_s=3600.0, n_loads=1, load_s=3600.0))
    assert costs.cpu(1) <= 1.31
    assert costs.disk_s_per_expert <= 6.51


@pytest.mark.parametrize(
    ("n_tokens", "times"), [((), ()), ((1, 1), (1.0, 2.0)), ((0,), (1.0,)), ((1, 2), (2.0, 1.0)), ((1,), (0.0,))]
)
def test_a_curve_that_no_machine_has_cannot_exist(n_tokens: tuple[int, ...], times: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        CostCurve(n_tokens, times)
