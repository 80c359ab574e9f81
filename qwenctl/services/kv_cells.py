"""The cells of a KV cache that all sequences share: who holds which, and how many are free. Pure bookkeeping.

A cell keeps one token's keys and values. Sequences with a common prefix hold the same cells (llama_memory_seq_cp in a
unified cache); a cell is free when nobody holds it. The numbers here are our own, not llama.cpp's indexes: what counts
is how many cells are taken.
"""

from __future__ import annotations

from collections.abc import Iterable


class KvCells:
    """Cells held by `n_slots` sequences, position by position, out of `n_cells`."""

    def __init__(self, n_slots: int, n_cells: int) -> None:
        self.n_cells = n_cells
        self._held: list[list[int]] = [[] for _ in range(n_slots)]
        self._holders: dict[int, int] = {}  # of cells that several slots hold
        self._next = 0
        self._n_taken = 0

    @property
    def n_free(self) -> int:
        """Cells that nobody holds."""
        return self.n_cells - self._n_taken

    def n_held(self, slot: int) -> int:
        """Cells that `slot` holds: the positions it has in the cache."""
        return len(self._held[slot])

    def grow(self, slot: int, n_tokens: int) -> None:
        """Give `slot` that many fresh cells."""
        if n_tokens > self.n_free:
            raise AssertionError(f"{n_tokens} cells are wanted, {self.n_free} are free")
        self._held[slot].extend(range(self._next, self._next + n_tokens))
        self._next += n_tokens
        self._n_taken += n_tokens

    def truncate(self, slot: int, n_kept: int) -> None:
        """Let `slot` hold its first `n_kept` cells only."""
        held = self._held[slot]
        for cell in held[n_kept:]:
            others = self._holders.get(cell, 1) - 1
            if others > 1:
                self._holders[cell] = others
            elif others == 1:
                del self._holders[cell]
            else:
                self._n_taken -= 1
        del held[n_kept:]

    def share(self, source: int, target: int, n_tokens: int) -> None:
        """Let `target`, which holds nothing, hold the first `n_tokens` cells of `source` too."""
        if self._held[target] or n_tokens > len(self._held[source]):
            raise AssertionError(
                f"{n_tokens} of {len(self._held[source])} cells, to a slot with {len(self._held[target])}"
            )
        shared = self._held[source][:n_tokens]
        for cell in shared:
            self._holders[cell] = self._holders.get(cell, 1) + 1
        self._held[target] = shared

    def n_released_by(self, slots: Iterable[int]) -> int:
        """Return how many cells would become free if all of `slots` let go."""
        count: dict[int, int] = {}
        for slot in slots:
            for cell in self._held[slot]:
                count[cell] = count.get(cell, 0) + 1
        return sum(holders == self._holders.get(cell, 1) for cell, holders in count.items())

    def check_integrity(self) -> None:
        """Raise AssertionError unless taken cells and free cells are all cells."""
        union = {cell for held in self._held for cell in held}
        total = sum(map(len, self._held))
        extra = sum(holders - 1 for holders in self._holders.values())
        if not (len(union) == total - extra == self._n_taken <= self.n_cells):
            counts = f"{len(union)} different cells, {total} held, {extra} of them again, {self._n_taken} taken"
            raise AssertionError(f"{counts}, {self.n_cells} in all")
