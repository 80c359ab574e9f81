"""The ring through which experts pass: every one arrives, slots are conserved, nothing of a fault stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.errors import ExpertReadFailed
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.graph_tensors import SlotBuffers
from qwenctl.moe.read_queue import ReadTicket
from qwenctl.moe.slot_layout import LayoutMaker, SlotLayout, SlotMatrix
from qwenctl.moe.stream_ring import StreamRing
from qwenctl.services.expert_offload import open_ggml

PAGE = 4096
N_LAYERS = 3
LAYOUT = SlotLayout("plain", (SlotMatrix("gate_up", 0, 8, 8, 256, 0, PAGE, 0),), PAGE)


class HandLoader:
    """Loads only what a test lets arrive; notes what was asked for, and where it goes."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int, bool]] = []  # layer, expert, address, urgent
        self.tickets: dict[tuple[int, int], ReadTicket] = {}

    def load(
        self, position: int, expert: int, layout: SlotLayout, buffers: SlotBuffers, slot: int, *, urgent: bool = True
    ) -> ReadTicket:
        ticket = ReadTicket(f"expert {expert} of layer {position}", 1)
        self.asked.append((position, expert, slot, urgent))
        self.tickets[position, expert] = ticket
        return ticket

    def finish(self, position: int, expert: int, *, fails: bool = False) -> None:
        ticket = self.tickets[position, expert]
        if ticket.begin_part():
            ticket.end_part(ExpertReadFailed("no disk") if fails else None)

    def finish_all(self) -> None:
        for position, expert in self.tickets:
            if not self.tickets[position, expert].done:
                self.finish(position, expert)


@pytest.fixture(scope="module")
def ggml() -> Ggml:
    return open_ggml()


@pytest.fixture
def maker(ggml: Ggml) -> Iterator[LayoutMaker]:
    made = LayoutMaker(ggml)
    yield made
    made.close()


def _ring(ggml: Ggml, maker: LayoutMaker, n_slots: int) -> tuple[StreamRing, HandLoader]:
    loader = HandLoader()
    return StreamRing(ggml, maker, [LAYOUT] * N_LAYERS, n_slots, loader), loader


def test_slots_are_read_into_as_they_come_free(ggml: Ggml, maker: LayoutMaker) -> None:
    ring, loader = _ring(ggml, maker, 2)
    ring.begin(0, [5, 1, 3], [])
    assert [(expert, urgent) for _, expert, _, urgent in loader.asked] == [(1, True), (3, True)]
    assert len({slot for *_, slot, _ in loader.asked}) == 2
    loader.finish(0, 3)
    arrived = ring.arrived()
    assert list(arrived) == [3]
    assert arrived[3] == loader.asked[1][2]
    assert ring.n_expected == 2
    assert len(loader.asked) == 2  # its slot is still computed with
    ring.release()
    assert loader.asked[2][1:] == (5, arrived[3], True)
    loader.finish_all()
    assert set(ring.arrived()) == {1, 5}
    ring.release()
    assert ring.n_expected == 0
    ring.check_integrity()
    ring.close()


def test_the_next_layer_is_read_when_all_of_this_one_is_asked_for(ggml: Ggml, maker: LayoutMaker) -> None:
    ring, loader = _ring(ggml, maker, 3)
    ring.begin(0, [1, 2], [7, 8])
    assert [(layer, expert, urgent) for layer, expert, _, urgent in loader.asked] == [
        (0, 1, True),
        (0, 2, True),
        (1, 7, False),
    ]
    loader.finish_all()
    assert set(ring.arrived()) == {1, 2}  # not the one of the next layer
    ring.release()
    ring.begin(1, [7, 9], [])
    assert [expert for layer, expert, *_ in loader.asked if layer == 1] == [7, 8, 9]
    loader.finish_all()
    assert set(ring.arrived()) == {7, 9}
    ring.release()
    ring.check_integrity()
    ring.close()


def test_what_is_read_for_nothing_keeps_its_slot_until_nobody_writes_there(ggml: Ggml, maker: LayoutMaker) -> None:
    ring, loader = _ring(ggml, maker, 2)
    ring.begin(0, [], [4])
    slot = loader.asked[0][2]
    assert loader.tickets[1, 4].begin_part()  # a thread writes into the slot
    ring.begin(2, [6, 7], [])
    ring.check_integrity()
    assert [expert for _, expert, *_ in loader.asked] == [4, 6]
    assert loader.asked[1][2] != slot
    loader.tickets[1, 4].end_part(None)
    loader.finish(2, 6)
    assert list(ring.arrived()) == [6]
    assert loader.asked[2][1:3] == (7, slot)
    ring.close()


def test_a_failure_is_raised_and_forgotten(ggml: Ggml, maker: LayoutMaker) -> None:
    ring, loader = _ring(ggml, maker, 2)
    ring.begin(0, [1, 2, 3], [])
    loader.finish(0, 1, fails=True)
    with pytest.raises(ExpertReadFailed, match="no disk"):
        ring.arrived()
    loader.finish_all()
    ring.forget()
    ring.check_integrity()
    assert ring.n_expected == 0
    ring.begin(0, [1, 2, 3], [])
    assert [expert for _, expert, *_ in loader.asked[2:]] == [1, 2]  # again: what failed and what did not
    loader.finish_all()
    assert set(ring.arrived()) == {1, 2}
    ring.close()


@given(
    n_slots=st.integers(1, 5),
    batches=st.lists(
        st.tuples(
            st.integers(0, N_LAYERS - 2),
            st.sets(st.integers(0, 7), max_size=6),
            st.sets(st.integers(0, 7), max_size=6),
            st.booleans(),
        ),
        max_size=8,
    ),
)
def test_every_expected_expert_arrives_once_in_a_slot_of_its_own(
    n_slots: int, batches: list[tuple[int, set[int], set[int], bool]]
) -> None:
    ggml = open_ggml()
    maker = LayoutMaker(ggml)
    ring, loader = _ring(ggml, maker, n_slots)
    for position, experts, ahead, broken_off in batches:
        ring.begin(position, sorted(experts), sorted(ahead))
        ring.check_integrity()
        seen: list[int] = []
        while ring.n_expected:
            loader.finish_all()
            arrived = ring.arrived()
            assert arrived
            assert len(set(arrived.values())) == len(arrived) <= n_slots
            last = {(layer, expert): slot for layer, expert, slot, _ in loader.asked}
            assert all(last[position, expert] == slot for expert, slot in arrived.items())
            seen += arrived
            if broken_off:
                break
            ring.release()
            ring.check_integrity()
        assert len(seen) == len(set(seen))
        assert set(seen) <= experts
        assert broken_off or set(seen) == experts
        loader.finish_all()
    ring.close()
    maker.close()
