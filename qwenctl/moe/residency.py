"""Which experts of one layer lie in which of its slots, and which one leaves when another must come in.

    slot_of    expert → slot, -1: absent                 (n_experts long)
    expert_in  slot → expert, -1: free                   (n_slots long)
    heat       expert → decayed count of its uses        (of absent experts too: they come back with their past)

An expert's heat is the sum over its uses of 2^-(age / half-life), age in steps: the combined recency and frequency
of LRFU (Lee et al. 2001). Instead of decaying all of them, each step adds a larger weight than the one before.
Pure: knows nothing of memory, files, threads or time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

HALF_LIFE_STEPS = 128.0
_LARGEST_WEIGHT = 2.0**64


class LayerPool:
    """The slots of one layer.

    Attributes:
        n_experts: experts of the layer.
        n_slots: slots, 0 … n_experts.
        slot_of: expert → slot, -1 if absent. Always the same list; not to be written.
        expert_in: slot → expert, -1 if free. Always the same list; not to be written.

    Args:
        n_experts: experts of the layer.
        n_slots: slots.
        half_life_steps: steps after which a use counts half; small values make plain LRU, large ones LFU.

    Raises:
        ValueError: more slots than experts, or a negative number.
    """

    __slots__ = ("_growth", "_heat", "_pins", "_weight", "expert_in", "n_experts", "n_slots", "slot_of")

    def __init__(self, n_experts: int, n_slots: int, half_life_steps: float = HALF_LIFE_STEPS) -> None:
        if not 0 <= n_slots <= n_experts:
            raise ValueError(f"{n_slots} slots for {n_experts} experts")
        if half_life_steps <= 0:
            raise ValueError(f"a half-life of {half_life_steps} steps")
        self.n_experts = n_experts
        self.n_slots = n_slots
        self.slot_of = [-1] * n_experts
        self.expert_in = [-1] * n_slots
        self._pins: dict[int, int] = {}
        self._heat = [0.0] * n_experts
        self._weight = 1.0
        self._growth = 2.0 ** (1.0 / half_life_steps)

    def use(self, experts: Sequence[int]) -> list[int]:
        """Note one step's distinct experts; return those absent, in the order given."""
        self._weight = weight = self._weight * self._growth
        slot_of = self.slot_of
        heat = self._heat
        absent = []
        for expert in experts:
            heat[expert] += weight
            if slot_of[expert] < 0:
                absent.append(expert)
        if weight > _LARGEST_WEIGHT:
            self._rescale()
        return absent

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
        if -1 in self.expert_in:
            slot = self.expert_in.index(-1)
        else:
            evicted = self._victim(keep)
            slot = self.slot_of[evicted]
            self.slot_of[evicted] = -1
        self.slot_of[expert] = slot
        self.expert_in[slot] = expert
        return slot, evicted

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
        slot = self.slot_of[expert]
        if slot < 0:
            raise ValueError(f"expert {expert} is absent")
        self._pins.pop(expert, None)
        self.slot_of[expert] = -1
        self.expert_in[slot] = -1

    def resize(self, n_slots: int) -> list[int]:
        """Change the number of slots. Slots from `n_slots` on are emptied; returns the experts that lay there.

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
            self.slot_of[expert] = -1
        del self.expert_in[n_slots:]
        self.expert_in.extend([-1] * (n_slots - self.n_slots))
        self.n_slots = n_slots
        return evicted

    @property
    def n_free(self) -> int:
        """Slots that hold nothing."""
        return self.expert_in.count(-1)

    def check_integrity(self) -> None:
        """Raise AssertionError unless slots in = slots out: both tables say the same, and pins are of residents."""
        resident = [expert for expert in self.expert_in if expert >= 0]
        n_present = len(self.slot_of) - self.slot_of.count(-1)
        if not len(self.expert_in) == self.n_slots == len(resident) + self.n_free:
            raise AssertionError(f"{len(resident)} taken and {self.n_free} free of {self.n_slots} slots")
        if not len(set(resident)) == len(resident) == n_present:
            raise AssertionError(f"{len(resident)} slots hold {len(set(resident))} experts, {n_present} are known")
        for expert in resident:
            if self.expert_in[self.slot_of[expert]] != expert:
                raise AssertionError(f"expert {expert} is not where it should be")
        for expert, n_pins in self._pins.items():
            if n_pins < 1 or self.slot_of[expert] < 0:
                raise AssertionError(f"expert {expert} has {n_pins} pins and slot {self.slot_of[expert]}")

    def _victim(self, keep: Collection[int]) -> int:
        heat = self._heat.__getitem__
        if self.n_slots:
            coldest = min(self.expert_in, key=heat)
            if coldest not in keep and coldest not in self._pins:
                return coldest
        free_to_go = [expert for expert in self.expert_in if expert not in keep and expert not in self._pins]
        if not free_to_go:
            raise ValueError(f"all {self.n_slots} slots hold experts that must stay")
        return min(free_to_go, key=heat)

    def _rescale(self) -> None:
        scale = 1.0 / self._weight
        self._heat[:] = [heat * scale for heat in self._heat]
        self._weight = 1.0
