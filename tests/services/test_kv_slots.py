"""Which slot a prompt gets, and that shared cells are counted right."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from qwenctl.services.kv_cells import KvCells
from qwenctl.services.kv_slots import Placement, SharingRules, SlotTable, common_prefix

ANY = SharingRules()


def _table(*held: Sequence[int], busy: Sequence[int] = (), rules: SharingRules = ANY) -> SlotTable:
    table = SlotTable(len(held), rules)
    for slot, tokens in zip(table.slots, held, strict=True):
        slot.tokens = list(tokens)
        slot.busy = slot.index in busy
        slot.prompt = tuple(tokens) if slot.busy else ()
        slot.last_used = slot.index
    return table


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_common_prefix_is_the_longest(first: list[int], second: list[int]) -> None:
    n_same = common_prefix(first, second)
    assert first[:n_same] == second[:n_same]
    assert first[n_same : n_same + 1] != second[n_same : n_same + 1] or n_same == min(len(first), len(second))


def test_the_next_turn_keeps_its_slot_up_to_where_the_prompt_differs() -> None:
    table = _table([7, 7], [1, 2, 3, 4, 5])
    assert table.place([1, 2, 3, 9, 9]) == Placement(1, 1, 3)


def test_at_least_one_token_is_computed() -> None:
    assert _table([1, 2, 3]).place([1, 2, 3]) == Placement(0, 0, 2)
    assert _table([1, 2, 3]).place([1, 2]) == Placement(0, 0, 1)
    assert _table([1]).place([1]) == Placement(0, 0, 0)


def test_a_running_sequence_gives_its_beginning_to_others() -> None:
    assert _table([1, 2, 3, 4], [], busy=[0]).place([1, 2, 3, 9]) == Placement(1, 0, 3)


def test_a_long_conversation_is_not_cut_for_a_short_common_beginning() -> None:
    assert _table(range(100), []).place([0, 1, 2, 500]) == Placement(1, 0, 3)


def test_without_an_empty_slot_it_is_cut() -> None:
    assert _table(range(100)).place([0, 1, 2, 500]) == Placement(0, 0, 3)


def test_what_was_used_last_is_overwritten_last() -> None:
    assert _table([1], [2], [3], busy=[0]).place([9, 9]) == Placement(1, 1, 0)


def test_a_slot_beside_busy_ones_is_taken_but_not_at_the_cost_of_what_was_used_last() -> None:
    rules = SharingRules(gaps_cost=True)
    held = ([1], [2], [3], [4], [5], [6])
    assert _table(*held, busy=[2, 4], rules=rules).place([9, 9]) == Placement(1, 1, 0)  # 3 was used later than 0 and 1
    assert _table(*held, busy=[0, 2], rules=rules).place([9, 9]) == Placement(1, 1, 0)
    assert _table([1], [2], [3], [4], busy=[3], rules=rules).place([9, 9]) == Placement(0, 0, 0)
    assert _table([], [], [], [4], busy=[3], rules=rules).place([9, 9]) == Placement(2, 2, 0)
    assert _table([], [], [], [], rules=rules).place([9, 9]) == Placement(0, 0, 0)


def test_no_slot_while_all_are_busy() -> None:
    assert _table([1], [2], busy=[0, 1]).place([1, 2]) is None


def test_memory_that_cannot_be_cut_is_kept_only_as_a_whole() -> None:
    rules = SharingRules(rolls_back=False, copies=False)
    assert _table([1, 2, 3], rules=rules).place([1, 2, 3, 4]) == Placement(0, 0, 3)
    assert _table([1, 2, 3], rules=rules).place([1, 2, 9, 4]) == Placement(0, 0, 0)
    assert _table([1, 2, 3], rules=rules).place([1, 2, 3]) == Placement(0, 0, 0)
    assert _table([1, 2, 3], [], busy=[0], rules=rules).place([1, 2, 3, 4]) == Placement(1, 1, 0)


def test_short_prefixes_are_not_copied_where_copies_are_dear() -> None:
    rules = SharingRules(min_copied_tokens=3)
    assert _table([1, 2], [], busy=[0], rules=rules).place([1, 2, 3]) == Placement(1, 1, 0)
    assert _table([1, 2, 3], [], busy=[0], rules=rules).place([1, 2, 3, 4]) == Placement(1, 0, 3)


def test_waiting_pays_while_somebody_computes_the_same_beginning() -> None:
    table = _table([1, 2], [], busy=[0])
    table.slots[0].prompt = (1, 2, 3, 4, 5, 6)
    prompt = [1, 2, 3, 4, 5, 9]
    placement = table.place(prompt)
    assert placement
    assert table.will_share_more(prompt, placement, at_least=3)
    assert not table.will_share_more(prompt, placement, at_least=4)
    table.slots[0].tokens = [1, 2, 3, 4, 5]
    assert not table.will_share_more(prompt, placement, at_least=3)


def test_a_slot_is_not_given_twice() -> None:
    table = _table([], [])
    placement = table.place([1])
    assert placement
    table.take(placement, (1,))
    with pytest.raises(AssertionError, match="taken twice"):
        table.take(placement, (1,))


class SharedCells(RuleBasedStateMachine):
    """Random growing, sharing and cutting against a model of sets."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = KvCells(4, 30)
        self.model: list[list[object]] = [[] for _ in range(4)]

    @rule(slot=st.integers(0, 3), n_tokens=st.integers(0, 12))
    def grow(self, slot: int, n_tokens: int) -> None:
        if n_tokens > self.cells.n_free:
            with pytest.raises(AssertionError):
                self.cells.grow(slot, n_tokens)
        else:
            self.cells.grow(slot, n_tokens)
            self.model[slot] += [object() for _ in range(n_tokens)]

    @rule(slot=st.integers(0, 3), n_kept=st.integers(0, 12))
    def truncate(self, slot: int, n_kept: int) -> None:
        self.cells.truncate(slot, n_kept)
        del self.model[slot][n_kept:]

    @rule(source=st.integers(0, 3), to=st.integers(0, 3), n_tokens=st.integers(0, 12))
    def share(self, source: int, to: int, n_tokens: int) -> None:
        if self.model[to] or n_tokens > len(self.model[source]):
            with pytest.raises(AssertionError):
                self.cells.share(source, to, n_tokens)
        else:
            self.cells.share(source, to, n_tokens)
            self.model[to] = self.model[source][:n_tokens]

    @invariant()
    def counts_agree(self) -> None:
        self.cells.check_integrity()
        assert self.cells.n_free == 30 - len({cell for held in self.model for cell in held})
        assert [self.cells.n_held(slot) for slot in range(4)] == [len(held) for held in self.model]
        kept = {cell for held in self.model[2:] for cell in held}
        assert self.cells.n_released_by([0, 1]) == len({cell for held in self.model[:2] for cell in held} - kept)


test_shared_cells = SharedCells.TestCase
