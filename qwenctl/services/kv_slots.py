"""What each slot of the KV cache holds, and which slot a new prompt should get. Pure: no native calls.

A slot is one of llama.cpp's sequences. It belongs to a request while that runs; afterwards it keeps its tokens, so that
a later prompt with the same beginning need not be computed again:

    kept in place    the next turn of a conversation: the slot's own tokens up to where the prompt differs
    copied           the tokens of another slot, running or idle, up to there (a system prompt that many share)

Where slots are computed together only if their numbers follow each other, a prompt that shares nothing gets the slot
that leaves the fewest gaps, among the older half of those that can be had.

At least one token of a prompt is always left to compute, for logits to exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(slots=True)
class Slot:
    """One sequence of the KV cache. `tokens` lie at the positions 0 … len(tokens)-1."""

    index: int  # llama.cpp's sequence id
    tokens: list[int] = field(default_factory=list)
    prompt: Sequence[int] = ()  # of the request it belongs to: what it will hold soon
    busy: bool = False
    last_used: int = 0  # a count of placements, not a time


class Placement(NamedTuple):
    """Where a prompt goes. `source` is `slot` when the prefix is kept in place."""

    slot: int
    source: int
    n_shared: int  # tokens taken over


@dataclass(frozen=True, slots=True)
class SharingRules:
    """What the KV cache of a model allows."""

    rolls_back: bool = True  # tokens can be removed from the end; recurrent memory cannot do that
    copies: bool = True  # prefixes can be copied between slots
    min_copied_tokens: int = 1  # shorter prefixes are sooner computed than copied
    gaps_cost: bool = False  # busy slots between which there are idle ones are computed one after the other


class SlotTable:
    """All slots of a context."""

    def __init__(self, n_slots: int, rules: SharingRules) -> None:
        self.slots = [Slot(index) for index in range(n_slots)]
        self._rules = rules
        self._n_placed = 0

    def idle(self) -> list[Slot]:
        """Return the slots that belong to no request, least recently used first."""
        return sorted((slot for slot in self.slots if not slot.busy), key=lambda slot: slot.last_used)

    def place(self, prompt: Sequence[int]) -> Placement | None:
        """Choose a slot for `prompt`, or None while all are busy. Changes nothing."""
        idle = self.idle()
        if not idle:
            return None
        kept, n_kept = max(
            ((slot, self._n_kept(slot, prompt)) for slot in idle), key=lambda pair: (pair[1], -pair[0].index)
        )
        source, n_copied = self._best_source(prompt)
        if n_copied > n_kept:
            return Placement(self._cheapest(idle).index, source.index, n_copied)
        if not n_kept:
            target = self._cheapest(idle)
            return Placement(target.index, target.index, 0)
        if self._worth_copying(kept, n_kept, idle):
            return Placement(self._cheapest(idle, but=kept).index, kept.index, n_kept)
        return Placement(kept.index, kept.index, n_kept)

    def will_share_more(self, prompt: Sequence[int], placement: Placement, at_least: int) -> bool:
        """Return whether waiting pays: a running slot is computing `at_least` more tokens of this prompt."""
        if not self._rules.copies:
            return False
        worth = max(self._rules.min_copied_tokens, placement.n_shared + at_least)
        for slot in self.slots:
            if slot.busy and len(slot.tokens) < len(slot.prompt):
                n_common = min(common_prefix(slot.prompt, prompt), len(prompt) - 1)
                if n_common >= worth and n_common > len(slot.tokens):
                    return True
        return False

    def take(self, placement: Placement, prompt: Sequence[int]) -> Slot:
        """Give the slot to a request: it then holds the shared prefix only."""
        slot = self.slots[placement.slot]
        if slot.busy:
            raise AssertionError(f"slot {slot.index} is taken twice")
        slot.tokens = self.slots[placement.source].tokens[: placement.n_shared]
        slot.prompt, slot.busy = prompt, True
        self._n_placed += 1
        slot.last_used = self._n_placed
        return slot

    def give_back(self, slot: Slot) -> None:
        """The request is over; the tokens stay."""
        self._n_placed += 1
        slot.busy, slot.prompt, slot.last_used = False, (), self._n_placed

    def _n_kept(self, slot: Slot, prompt: Sequence[int]) -> int:
        n_common = common_prefix(slot.tokens, prompt)
        if n_common == len(prompt):
            n_common -= 1
        return n_common if self._rules.rolls_back or n_common == len(slot.tokens) else 0

    def _best_source(self, prompt: Sequence[int]) -> tuple[Slot, int]:
        """Return the busy slot with the longest common prefix worth a copy, or any slot and 0."""
        best, n_best = self.slots[0], 0
        for slot in self.slots if self._rules.copies else ():
            n_common = min(common_prefix(slot.tokens, prompt), len(prompt) - 1) if slot.busy else 0
            if n_common >= max(self._rules.min_copied_tokens, n_best + 1):
                best, n_best = slot, n_common
        return best, n_best

    def _worth_copying(self, kept: Slot, n_kept: int, idle: list[Slot]) -> bool:
        """Return whether to leave `kept` as it is: most of it would be lost, and there is a slot that holds nothing."""
        has_empty = any(not slot.tokens for slot in idle)
        mostly_lost = n_kept < len(kept.tokens) / 2
        return self._rules.copies and has_empty and mostly_lost and n_kept >= self._rules.min_copied_tokens

    def _cheapest(self, idle: list[Slot], but: Slot | None = None) -> Slot:
        """Return the slot whose loss matters least: an empty one (lowest index first), else the least recently used."""
        others = [slot for slot in idle if slot is not but] or idle
        others.sort(key=lambda slot: (bool(slot.tokens), slot.last_used if slot.tokens else slot.index))
        if not self._rules.gaps_cost:
            return others[0]
        n_empty = sum(not slot.tokens for slot in others)
        return min(others[: n_empty or (len(others) + 1) // 2], key=self._n_neighbours_missing)

    def _n_neighbours_missing(self, slot: Slot) -> int:
        """2, 1 or 0: how many of the slots beside it are idle or not there."""
        beside = (slot.index - 1, slot.index + 1)
        return sum(not (0 <= index < len(self.slots) and self.slots[index].busy) for index in beside)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of tokens at the beginning that are the same."""
    for n_same, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return n_same
    return min(len(first), len(second))
