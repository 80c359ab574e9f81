"""A layer's slots against a simple model of them, and the order in which experts leave."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qwenctl.moe.residency import LayerPool, half_life_steps, rank_shares

N_EXPERTS = 12
EXPERTS = st.integers(0, N_EXPERTS - 1)


class PoolAgainstModel(RuleBasedStateMachine):
    """The model: a dictionary expert → slot, a set of open slots, a list of all past steps."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = LayerPool(N_EXPERTS, 5, half_life=3.0)
        self.place: dict[int, int] = {}
        self.open = set(range(5))
        self.pins: dict[int, int] = {}
        self.steps: list[set[int]] = []

    def heat(self, expert: int) -> float:
        now = len(self.steps)
        return sum(2.0 ** ((t - now) / 3.0) for t, step in enumerate(self.steps) if expert in step)

    def assert_coldest(self, evicted: int, candidates: set[int]) -> None:
        assert evicted in candidates
        assert self.heat(evicted) <= min(map(self.heat, candidates)) * (1 + 1e-9)

    @rule(experts=st.sets(EXPERTS, max_size=6))
    def use(self, experts: set[int]) -> None:
        order = sorted(experts, key=lambda expert: expert * 7 % N_EXPERTS)
        assert self.pool.use(order) == [expert for expert in order if expert not in self.place]
        self.steps.append(experts)

    @rule(expert=EXPERTS, keep=st.sets(EXPERTS, max_size=4))
    def admit(self, expert: int, keep: set[int]) -> None:
        free = self.open - set(self.place.values())
        movable = set(self.place) - keep - set(self.pins)
        if expert in self.place or not (free or movable):
            with pytest.raises(ValueError):
                self.pool.admit(expert, keep)
            return
        slot, evicted = self.pool.admit(expert, keep)
        if free:
            assert evicted == -1
            assert slot in free
        else:
            self.assert_coldest(evicted, movable)
            assert self.place.pop(evicted) == slot
        self.place[expert] = slot

    @rule(expert=EXPERTS)
    def admit_hotter(self, expert: int) -> None:
        if expert in self.place:
            with pytest.raises(ValueError):
                self.pool.admit_hotter(expert)
            return
        free = self.open - set(self.place.values())
        movable = set(self.place) - set(self.pins)
        answer = self.pool.admit_hotter(expert)
        if answer is None:
            assert not free
            assert all(self.heat(expert) <= self.heat(other) * (1 + 1e-9) for other in movable)
            return
        slot, evicted = answer
        if not free:
            self.assert_coldest(evicted, movable)
            assert self.heat(evicted) < self.heat(expert)
            assert self.place.pop(evicted) == slot
        self.place[expert] = slot

    @rule(expert=EXPERTS)
    def pin(self, expert: int) -> None:
        if expert not in self.place:
            with pytest.raises(ValueError):
                self.pool.pin(expert)
            return
        self.pool.pin(expert)
        self.pins[expert] = self.pins.get(expert, 0) + 1

    @rule(expert=EXPERTS)
    def unpin(self, expert: int) -> None:
        if expert not in self.pins:
            with pytest.raises(ValueError):
                self.pool.unpin(expert)
            return
        self.pool.unpin(expert)
        self.pins[expert] -= 1
        if not self.pins[expert]:
            del self.pins[expert]

    @rule(expert=EXPERTS)
    def forget(self, expert: int) -> None:
        if expert not in self.place:
            with pytest.raises(ValueError):
                self.pool.forget(expert)
            return
        self.pool.forget(expert)
        del self.place[expert]
        self.pins.pop(expert, None)

    @rule(n_slots=st.integers(-1, N_EXPERTS + 1))
    def resize(self, n_slots: int) -> None:
        leaving = {expert for expert, slot in self.place.items() if slot >= n_slots}
        if not 0 <= n_slots <= N_EXPERTS or leaving & set(self.pins):
            with pytest.raises(ValueError):
                self.pool.resize(n_slots)
            return
        assert set(self.pool.resize(n_slots)) == leaving
        self.open = set(range(n_slots))
        for expert in leaving:
            del self.place[expert]

    @rule(n_closed=st.integers(-1, 4))
    def close_coldest(self, n_closed: int) -> None:
        free = self.open - set(self.place.values())
        movable = set(self.place) - set(self.pins)
        if n_closed < 0 or n_closed > len(free) + len(movable):
            with pytest.raises(ValueError):
                self.pool.close_coldest(n_closed)
            return
        closed = self.pool.close_coldest(n_closed)
        assert len(closed) == n_closed
        for slot, expert in closed:
            self.open.remove(slot)
            if expert >= 0:
                self.assert_coldest(expert, set(self.place) - set(self.pins))
                assert self.place.pop(expert) == slot
        assert sum(expert < 0 for _, expert in closed) == min(n_closed, len(free))

    @precondition(lambda self: len(self.open) < N_EXPERTS)
    @rule(n_opened=st.integers(0, 3))
    def open_slots(self, n_opened: int) -> None:
        closed = sorted(set(range(N_EXPERTS)) - self.open)
        if n_opened > len(closed):
            with pytest.raises(ValueError):
                self.pool.open_slots(n_opened)
            return
        assert self.pool.open_slots(n_opened) == closed[:n_opened]
        self.open |= set(closed[:n_opened])

    @invariant()
    def agrees(self) -> None:
        self.pool.check_integrity()
        assert self.pool.slot_of == [self.place.get(expert, -1) for expert in range(N_EXPERTS)]
        assert self.pool.n_slots == len(self.open)
        assert self.pool.n_free == len(self.open) - len(self.place)


TestPoolAgainstModel = PoolAgainstModel.TestCase


def test_the_two_lists_of_a_pool_are_always_the_same_objects() -> None:
    pool = LayerPool(8, 4)
    before = (pool.slot_of, pool.expert_in, pool.heat)
    for expert in (0, 1, 2, 3, 4):
        for _ in range(3000):  # far beyond the largest weight
            pool.use([expert])
        if pool.slot_of[expert] < 0:
            pool.admit(expert, ())
    pool.resize(2)
    pool.open_slots(3)
    assert (pool.slot_of, pool.expert_in, pool.heat) == before
    assert all(a is b for a, b in zip((pool.slot_of, pool.expert_in, pool.heat), before, strict=True))


def test_what_is_used_often_outlives_what_was_used_just_once_and_later() -> None:
    pool = LayerPool(4, 2, half_life=8.0)
    for _ in range(4):
        pool.use([0])
    pool.admit(0, ())
    pool.use([1])
    pool.admit(1, ())
    assert pool.use([2]) == [2]
    assert pool.admit(2, [2]) == (1, 1)


def test_what_is_used_no_more_leaves_in_the_end() -> None:
    pool = LayerPool(4, 2, half_life=8.0)
    for _ in range(100):
        pool.use([0])
    pool.admit(0, ())
    for _ in range(60):
        pool.use([1])
    pool.admit(1, ())
    pool.use([2])
    assert pool.admit(2, ()) == (0, 0)


def test_the_order_of_heat_survives_the_change_of_its_unit() -> None:
    pool = LayerPool(3, 2, half_life=1.0)
    pool.use([0])
    pool.use([1])
    pool.admit(0, ())
    pool.admit(1, ())
    for _ in range(200):
        pool.use([])
    pool.use([2])
    assert pool.admit(2, ())[1] == 0


def test_an_expert_comes_back_with_its_past() -> None:
    pool = LayerPool(4, 1, half_life=8.0)
    for _ in range(8):
        pool.use([0])
    pool.use([1])
    pool.admit(1, ())
    assert pool.admit_hotter(0) == (0, 1)
    assert pool.admit_hotter(1) is None


def test_who_just_missed_the_choice_outlives_who_came_last() -> None:
    pool = LayerPool(8, 3, half_life=8.0)
    for expert in (6, 7, 0):
        pool.admit(expert, ())
    ranking = np.array([[0, 1, 6, 2, 3, 4, 5, 7]], dtype=np.int32)
    assert pool.use([0, 1], ranking) == [1]
    assert pool.admit(1, [0, 1]) == (1, 7)
    assert np.all(np.diff(pool.heat[ranking[0]]) < 0)


def test_several_tokens_add_up_and_uses_count_as_the_first_rank() -> None:
    ranked, used = LayerPool(4, 2, half_life=8.0), LayerPool(4, 2, half_life=8.0)
    ranked.use([0, 1], np.array([[0, 2], [1, 2]], dtype=np.int32))
    used.use([0, 1])
    assert ranked.heat[:2].tolist() == used.heat[:2].tolist()
    assert ranked.heat[2] == 2 * ranked.heat[0] * rank_shares(4, 2)[1]
    assert rank_shares(128, 33)[32] == pytest.approx(np.exp(-1))


def test_integrity_notices_an_expert_in_two_slots() -> None:
    pool = LayerPool(4, 2)
    pool.admit(3, ())
    pool.expert_in[1] = 3
    with pytest.raises(AssertionError, match="2 slots taken by 1 experts"):
        pool.check_integrity()


def test_integrity_notices_a_slot_that_is_gone() -> None:
    pool = LayerPool(4, 2)
    pool.n_slots = 3
    with pytest.raises(AssertionError, match="0 taken and 2 free of 3"):
        pool.check_integrity()


@pytest.mark.parametrize(("n_experts", "n_slots", "half_life"), [(4, 5, 8.0), (4, -1, 8.0), (4, 2, 0.0)])
def test_impossible_pools_are_refused(n_experts: int, n_slots: int, half_life: float) -> None:
    with pytest.raises(ValueError):
        LayerPool(n_experts, n_slots, half_life)


def test_half_lives_grow_with_the_pool_up_to_sixteen_steps() -> None:
    assert half_life_steps(8, 4) == 5.0
    assert half_life_steps(100, 8) == 16.0
    assert half_life_steps(0, 8) == 2.0
