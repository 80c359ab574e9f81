"""Which experts of one layer lie in which of its slots, and which one leaves when another must come in.

    slot_of    expert → slot, -1: absent
    expert_in  slot → expert, -1: free or closed       (a slot for every expert; only n_slots of them are open)
    heat       expert → decayed count of its uses      (of absent experts too: they come back with their past)

An expert's heat is the sum over the steps of share × 2^-(age / half-life), age in steps: the combined recency and
frequency of LRFU (Lee et al. 2001). Instead of decaying all of them, each step adds a larger weight than the one
before. A use has the share 1. Where the router's whole ranking is known, the expert at rank r has the share
exp(-4 r / n_experts), chosen or not: who just missed the choice is more likely to be chosen soon than who came last
(HybriMoE, Zhong et al. 2025, keeps scores for the same reason; ranks need no look into the router). Of the distance
between LRU and Belady's optimum, equal slots at 40 to 60 %, ranks close 41 % on routing made up like Qwen3-30B-A3B's,
uses alone 5 to 20; on the demo model's recorded routing 33 to 26 %, uses alone 29 to 20 (bench_residency.py).
Pure: knows nothing of memory, files, threads or time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

_LARGEST_WEIGHT = 2.0**64
_RANKS_SHARE = 0.25  # of the experts: so many ranks further down, the share is 1/e of what it was

Floats = npt.NDArray[np.float64]


def half_life_steps(n_slots: int, n_used: int) -> float:
    """Return the half-life of heat that suits a pool of `n_slots` for steps of `n_used` experts.

    Found by replay (scripts/bench_residency.py). The less there is to remember, the shorter: where routing is nearly
    random, pools of 3, 5, 7 and 9 tokens did best with 4, 8, 11 and 12 steps and lost to plain LRU from 10, 16, 18 and
    21 on; the recorded model did best with 6 to 8 at two tokens; strong locality likes 16 and more. From 64 on all
    made-up traces lost to LRU at 40 % residency and above: too much of a past topic stays.
    """
    return min(16.0, 2.0 + 1.5 * n_slots / n_used)


@cache
def rank_shares(n_experts: int, n_ranked: int) -> Floats:
    """Return what a step adds to the heat of the expert at each rank, (n_ranked,), the use of an expert being 1."""
    return np.exp(-np.arange(n_ranked) / (_RANKS_SHARE * n_experts))


class LayerPool:
    """The slots of one layer.

    Attributes:
        n_experts: experts of the layer, and the most slots.
        n_slots: open slots.
        slot_of: expert → slot, -1 if absent. Always the same list; not to be written.
        expert_in: slot → expert, -1 if free or closed; n_experts long. Always the same list; not to be written.
        heat: float64 (n_experts,), in a unit that changes. Always the same array; not to be written.

    Args:
        n_experts: experts of the layer.
        n_slots: slots to open: the first ones.
        half_life: steps after which a use counts half (`half_life_steps`).

    Raises:
        ValueError: more slots than experts, or a negative number.
    """

    __slots__ = (
        "_free",
        "_growth",
        "_held",
        "_pins",
        "_weight",
        "expert_in",
        "heat",
        "n_experts",
        "n_slots",
        "slot_of",
    )

    def __init__(self, n_experts: int, n_slots: int, half_life: float = 12.0) -> None:
        if not 0 <= n_slots <= n_experts:
            raise ValueError(f"{n_slots} slots for {n_experts} experts")
        if half_life <= 0:
            raise ValueError(f"a half-life of {half_life} steps")
        self.n_experts = n_experts
        self.n_slots = n_slots
        self.slot_of = [-1] * n_experts
        self.expert_in = [-1] * n_experts
        self.heat: Floats = np.zeros(n_experts)
        self._free = list(range(n_slots - 1, -1, -1))
        self._held = np.zeros(n_experts, dtype=bool)  # who is present
        self._pins: dict[int, int] = {}
        self._weight = 1.0
        self._growth = 2.0 ** (1.0 / half_life)

    def use(self, experts: Sequence[int], ranking: npt.NDArray[np.int32] | None = None) -> list[int]:
        """Note one step; return those of its experts that are absent, in the order given.

        Args:
            experts: the step's distinct experts.
            ranking: int32 (n_tokens, n_ranked), each token's experts, best first, none twice; None: not known.
        """
        self._weight = weight = self._weight * self._growth
        if ranking is None:
            self.heat[list(experts)] += weight
        else:
            added = weight * rank_shares(self.n_experts, ranking.shape[1])
            for row in ranking:
                self.heat[row] += added
        if weight > _LARGEST_WEIGHT:
            self._rescale()
        slot_of = self.slot_of
        return [expert for expert in experts if slot_of[expert] < 0]

    def admit(self, expert: int, keep: Collection[int]) -> tuple[int, int]:
        """Give an absent expert a slot: a free one, or that of the coldest expert neither in `keep` nor pinned.

        Returns:
            The slot, and the expert that left it (-1: it was free).

        Raises:
            ValueError: the expert is present, or every slot holds one that must stay.
        """
        if self.slot_of[expert] >= 0:
            raise ValueError(f"expert {expert} is present")
        evicted = -1
        if self._free:
            slot = self._free.pop()
        else:
            evicted = self._coldest(keep)
            slot = self._remove(evicted)
        self.slot_of[expert] = slot
        self.expert_in[slot] = expert
        self._held[expert] = True
        return slot, evicted

    def admit_hotter(self, expert: int, advantage: float = 1.0) -> tuple[int, int] | None:
        """Give an absent expert a slot only if that pays: a free one, or that of a colder expert that is not pinned.

        For slots that a step can do without: on a device, or fewer than a token uses.

        Args:
            expert: which.
            advantage: how many times as hot as the coldest it must be.

        Returns:
            As `admit`; None: it stays out.

        Raises:
            ValueError: the expert is present.
        """
        if not self._free and self.slot_of[expert] < 0:
            coldest = self._coldest_of(self._free_to_go(()))
            if coldest < 0 or self.heat[expert] <= self.heat[coldest] * advantage:
                return None
        return self.admit(expert, ())

    def pin(self, expert: int) -> None:
        """Keep a present expert from leaving until `unpin`; calls nest.

        Raises:
            ValueError: the expert is absent.
        """
        if self.slot_of[expert] < 0:
            raise ValueError(f"expert {expert} is absent")
        self._pins[expert] = self._pins.get(expert, 0) + 1

    def unpin(self, expert: int) -> None:
        """Take one `pin` back.

        Raises:
            ValueError: there is none.
        """
        n_pins = self._pins.get(expert, 0)
        if n_pins == 0:
            raise ValueError(f"expert {expert} is not pinned")
        if n_pins == 1:
            del self._pins[expert]
        else:
            self._pins[expert] = n_pins - 1

    def forget(self, expert: int) -> None:
        """Free the slot of an expert that could not be loaded; its pins go too.

        Raises:
            ValueError: the expert is absent.
        """
        if self.slot_of[expert] < 0:
            raise ValueError(f"expert {expert} is absent")
        self._pins.pop(expert, None)
        self._free.append(self._remove(expert))

    def close_coldest(self, n_closed: int) -> list[tuple[int, int]]:
        """Close slots: free ones first, then those of the coldest experts that are not pinned.

        Returns:
            Each closed slot with the expert that leaves it (-1: it was free).

        Raises:
            ValueError: there are not so many; nothing has changed then.
        """
        n_evicted = max(0, n_closed - len(self._free))
        free_to_go = self._free_to_go(())
        if n_closed < 0 or n_evicted > len(free_to_go):
            raise ValueError(f"{n_closed} of {self.n_slots} slots cannot be closed, {len(self._pins)} are pinned")
        closed = [(self._free.pop(), -1) for _ in range(n_closed - n_evicted)]
        for expert in free_to_go[np.argsort(self.heat[free_to_go], kind="stable")][:n_evicted].tolist():
            closed.append((self._remove(expert), expert))
        self.n_slots -= n_closed
        return closed

    def open_slots(self, n_opened: int) -> list[int]:
        """Open so many of the closed slots, the lowest ones; returns them.

        Raises:
            ValueError: fewer are closed.
        """
        if not 0 <= n_opened <= self.n_experts - self.n_slots:
            raise ValueError(f"{n_opened} more slots than {self.n_slots} for {self.n_experts} experts")
        opened = self._closed()[:n_opened]
        self._free.extend(reversed(opened))
        self.n_slots += n_opened
        return opened

    def resize(self, n_slots: int) -> list[int]:
        """Have exactly the first `n_slots` slots open. Returns the experts that lay in others.

        Raises:
            ValueError: an impossible number, or a pinned expert lies in such a slot; nothing has changed then.
        """
        if not 0 <= n_slots <= self.n_experts:
            raise ValueError(f"{n_slots} slots for {self.n_experts} experts")
        evicted = [expert for expert in self.expert_in[n_slots:] if expert >= 0]
        pinned = [expert for expert in evicted if expert in self._pins]
        if pinned:
            raise ValueError(f"expert {pinned[0]} is pinned in a slot that would go")
        for expert in evicted:
            self._remove(expert)
        self._free = [slot for slot in range(n_slots - 1, -1, -1) if self.expert_in[slot] < 0]
        self.n_slots = n_slots
        return evicted

    def coldest(self, keep: Collection[int]) -> int:
        """Return the expert that `admit` would drive out, -1: there is none."""
        return self._coldest_of(self._free_to_go(keep))

    @property
    def n_free(self) -> int:
        """Open slots that hold nothing."""
        return len(self._free)

    def check_integrity(self) -> None:
        """Raise AssertionError unless slots in = slots out: taken + free = open, and all tables say the same."""
        held = [expert for expert in self.expert_in if expert >= 0]
        n_located = self.n_experts - self.slot_of.count(-1)
        n_present = int(self._held.sum())
        if not len(set(held)) == len(held) == n_located == n_present:
            counts = f"{len(held)} slots taken by {len(set(held))} experts"
            raise AssertionError(f"{counts}, {n_located} located, {n_present} present")
        if len(held) + len(self._free) != self.n_slots or len(set(self._free)) != len(self._free):
            raise AssertionError(f"{len(held)} taken and {len(self._free)} free of {self.n_slots} slots")
        if any(self.expert_in[slot] >= 0 for slot in self._free):
            raise AssertionError("a free slot is taken")
        for expert in np.flatnonzero(self._held).tolist():
            if self.expert_in[self.slot_of[expert]] != expert:
                raise AssertionError(f"expert {expert} is not where it should be")
        for expert, n_pins in self._pins.items():
            if n_pins < 1 or self.slot_of[expert] < 0:
                raise AssertionError(f"expert {expert} has {n_pins} pins and slot {self.slot_of[expert]}")

    def _remove(self, expert: int) -> int:
        slot = self.slot_of[expert]
        self.slot_of[expert] = -1
        self.expert_in[slot] = -1
        self._held[expert] = False
        return slot

    def _coldest(self, keep: Collection[int]) -> int:
        coldest = self._coldest_of(self._free_to_go(keep))
        if coldest < 0:
            raise ValueError(f"all {self.n_slots} slots hold experts that must stay")
        return coldest

    def _free_to_go(self, keep: Collection[int]) -> npt.NDArray[np.intp]:
        """Return the present experts that are neither in `keep` nor pinned, ascending."""
        free = self._held.copy()
        free[[*keep, *self._pins]] = False
        return np.flatnonzero(free)

    def _coldest_of(self, experts: npt.NDArray[np.intp]) -> int:
        """Return the coldest of these experts, the first of equals; -1: there is none."""
        return int(experts[self.heat[experts].argmin()]) if len(experts) else -1

    def _closed(self) -> list[int]:
        free = set(self._free)
        return [slot for slot, expert in enumerate(self.expert_in) if expert < 0 and slot not in free]

    def _rescale(self) -> None:
        scale = 1.0 / self._weight
        self.heat *= scale
        self._weight = 1.0
