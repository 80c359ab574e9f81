"""The KV cache as the engine uses it: slots, cells and llama.cpp's memory, changed together and never apart.

kv_slots.py decides who gets which slot, kv_cells.py counts, native_model.py performs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qwenctl.services.kv_cells import KvCells
from qwenctl.services.kv_slots import Placement, SharingRules, Slot, SlotTable
from qwenctl.services.native_model import NativeModel
from qwenctl.services.step_plan import Batch, Chunk, gap_fillers

# A copy between streams moves a whole stream's cells; so many tokens are about as quickly computed again.
_MIN_COPIED_TOKENS = 64
_MIN_WAITED_TOKENS = 32  # a prefix that somebody is computing right now is waited for from this length on
_HEADROOM_TOKENS = 64  # that each running request should be able to generate before cells run out


class KvCache:
    """The slots of one opened model."""

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        shared = model.shares_cells
        rules = SharingRules(
            rolls_back=model.remembers_all,
            copies=model.remembers_all,
            min_copied_tokens=1 if shared else _MIN_COPIED_TOKENS,
            gaps_cost=not shared,
        )
        self._table = SlotTable(model.n_slots, rules)
        # Idle rows of a model with experts would have experts of their own, and read these.
        self._fills_gaps = model.remembers_all and not shared and not model.info.n_experts
        self._cells = KvCells(model.n_slots, model.n_cells) if shared else None

    @property
    def n_busy(self) -> int:
        """Slots that belong to a request."""
        return sum(slot.busy for slot in self._table.slots)

    def place(self, tokens: Sequence[int], n_may_follow: int) -> Placement | None:
        """Choose a slot for a request with these tokens, or None while it had better wait. Changes nothing."""
        placement = self._table.place(tokens)
        if placement is None or self._table.will_share_more(tokens, placement, _MIN_WAITED_TOKENS):
            return None
        if self._cells and self.n_busy:
            n_wanted = len(tokens) - placement.n_shared + min(n_may_follow, _HEADROOM_TOKENS)
            n_wanted += _HEADROOM_TOKENS * self.n_busy
            if n_wanted > (self.free_cells(n_wanted, but=placement.source) or 0):
                return None
        return placement

    def take(self, placement: Placement, tokens: Sequence[int]) -> Slot:
        """Give the slot to a request; it holds the shared prefix, or less where the memory does not allow it."""
        target, source, n_shared = placement
        if target == source:
            self._truncate(target, n_shared)
        else:
            self._truncate(target, 0)
            self._model.copy(source, target, n_shared)
            if self._cells:
                self._cells.share(source, target, n_shared)
        return self._table.take(placement, tokens)

    def give_back(self, slot: Slot) -> None:
        """The request is over; its tokens stay for others."""
        self._table.give_back(slot)

    def clear(self, slot: Slot) -> None:
        """Forget a slot's tokens."""
        self._truncate(slot.index, 0)
        slot.tokens = []

    def extend(self, slot: Slot, tokens: Sequence[int]) -> None:
        """`tokens` have been computed at the end of `slot`."""
        slot.tokens.extend(tokens)
        if self._cells:
            self._cells.grow(slot.index, len(tokens))

    def roll_back(self, slot: Slot) -> None:
        """Make llama.cpp forget what is not in `slot.tokens`: the end of a batch that failed or was aborted."""
        if not self._model.truncate(slot.index, len(slot.tokens)):
            self.clear(slot)

    def fillers(self, batch: Batch) -> tuple[Chunk, ...]:
        """Return what else to compute with `batch`, which generates, because that is quicker; to be forgotten then."""
        if not self._fills_gaps or len(batch) < 2 or batch[-1].slot - batch[0].slot < len(batch):
            return ()
        return gap_fillers(batch, {slot.index: len(slot.tokens) for slot in self._table.slots if not slot.busy})

    def forget_fillers(self, fillers: Sequence[Chunk]) -> None:
        """Make llama.cpp forget them."""
        for chunk in fillers:
            self._model.truncate(chunk.slot, chunk.first)

    def has_room_for(self, slot: Slot, n_tokens: int) -> bool:
        """Return whether `slot` could hold so many tokens in place of its own, idle ones given up for them."""
        if self._cells is None:
            return n_tokens <= self._model.n_ctx
        others = {one.index for one in self._table.idle()}
        return n_tokens <= self._cells.n_free + self._cells.n_released_by(others | {slot.index})

    def replace(self, slot: Slot, tokens: Sequence[int], n_kept: int, load: Callable[[], bool]) -> bool:
        """Let `load` put `tokens` in place of what `slot` holds, and keep the first `n_kept` of them.

        Returns:
            Whether `load` could; if not, the slot holds nothing.
        """
        self.clear(slot)
        self.make_room(len(tokens))
        if not load():
            self.roll_back(slot)
            return False
        self.extend(slot, tokens)
        self._truncate(slot.index, n_kept)
        del slot.tokens[n_kept:]
        return True

    def free_cells(self, enough: int, but: int | None = None) -> int | None:
        """Return the cells that can be had without ending a request, or `enough`; None: there are always enough."""
        if self._cells is None:
            return None
        n_free = self._cells.n_free
        if n_free < enough:
            n_free += self._cells.n_released_by(slot.index for slot in self._table.idle() if slot.index != but)
        return min(n_free, enough)

    def make_room(self, n_tokens: int) -> None:
        """Clear idle slots, least recently used first, until so many cells are free."""
        if self._cells:
            for slot in self._table.idle():
                if self._cells.n_free >= n_tokens:
                    return
                self.clear(slot)

    def drop_idle(self) -> bool:
        """Clear all idle slots. False: none held anything."""
        holding = [slot for slot in self._table.idle() if slot.tokens]
        for slot in holding:
            self.clear(slot)
        return bool(holding)

    def forget_all(self) -> None:
        """Empty everything, also what belongs to requests."""
        self._model.forget()
        for slot in self._table.slots:
            slot.tokens = []
            if self._cells:
                self._cells.truncate(slot.index, 0)

    def check_integrity(self) -> None:
        """Raise AssertionError unless slots and cells agree."""
        if self._cells:
            self._cells.check_integrity()
            for slot in self._table.slots:
                n_held = self._cells.n_held(slot.index)
                if n_held != len(slot.tokens):
                    raise AssertionError(f"slot {slot.index} has {len(slot.tokens)} tokens in {n_held} cells")

    def _truncate(self, slot: int, n_kept: int) -> None:
        held = self._table.slots[slot].tokens
        if n_kept < len(held) and not self._model.truncate(slot, n_kept):
            raise AssertionError(f"llama.cpp cannot cut slot {slot} to {n_kept} tokens")
        if self._cells:
            self._cells.truncate(slot, n_kept)
