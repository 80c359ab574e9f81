"""A step's split where experts are under way: what is being brought to the device is not sent there a second time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qwenctl.moe.costs import CostCurve, Costs
from qwenctl.moe.hybrid_step import Split
from qwenctl.moe.residency import LayerPool

N_EXPERTS = 8
# A device so quick that all that may go there does.
EAGER = Costs(CostCurve((1,), (1.0,)), CostCurve((1,), (1e-3,)), 0.0, 1.0, 1e-3, 1e-3)


class FakeTier:
    def __init__(self, pool: Any) -> None:
        self.sent: list[int] = []
        self._pool = pool

    def upload_queued(self, _position: int, expert: int, _addresses: list[int], keep: list[int]) -> None:
        self._pool.slots.admit(expert, keep)  # as DevicePool does: ValueError if it is there
        self.sent.append(expert)


def split(on_way: list[int]) -> tuple[Split, FakeTier]:
    slots = LayerPool(N_EXPERTS, 6)
    pool = SimpleNamespace(slots=slots, slot_of=[-1] * N_EXPERTS, n_on_way=len(on_way))
    pool.is_on_way = lambda expert: pool.slot_of[expert] < 0 <= slots.slot_of[expert]
    for expert in on_way:
        slots.admit(expert, ())
        slots.pin(expert)
    in_ram = LayerPool(N_EXPERTS, N_EXPERTS)
    for expert in range(N_EXPERTS):
        in_ram.admit(expert, ())
    layer = SimpleNamespace(
        layout=SimpleNamespace(is_plain=True), pool=in_ram, loading={}, matrices_of=lambda expert: [expert]
    )
    tier = FakeTier(pool)
    devices = SimpleNamespace(
        policy=SimpleNamespace(uploads_now=True), costs=lambda _: EAGER, tier=tier, n_uploads_now=0
    )
    made: Any = Split
    return made(devices, 0, pool, layer), tier


@pytest.mark.parametrize("counts", [None, [1, 1, 1], [40, 3, 7]])
def test_an_expert_on_its_way_is_left_to_the_cpu(counts: list[int] | None) -> None:
    one, tier = split(on_way=[2])
    assert one.of_tokens([1, 2, 3], counts) == {1, 3}
    assert sorted(tier.sent) == [1, 3]
    assert one.telling(2) == ()  # of such a run's time nobody can say what computing was


def test_slots_that_are_being_filled_are_no_room() -> None:
    one, tier = split(on_way=[0, 1, 2, 3, 4])  # one of six slots is left
    assert len(one.of_tokens([5, 6, 7], None)) == 1
    assert len(tier.sent) == 1


def test_all_on_their_way() -> None:
    one, tier = split(on_way=[1, 2, 3])
    assert one.of_tokens([1, 2, 3], None) == set()
    assert tier.sent == []
    assert one.telling(2) == (1, 1)
