"""Reading experts of the next layer ahead while this one computes, as long as that helps.

    TokenStep: ids known, own misses on their way ─► predict the next layer's experts ─► leisurely reads of the absent

A read ahead takes the slot of the next layer's coldest expert, and yields to every read that a step waits for. The gate
(prefetch_gate.py) compares tokens with and without; while it says no, the compiled path is used and nothing here runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from qwenctl.moe.lookahead import RouterLookahead
from qwenctl.moe.prefetch_gate import PrefetchGate
from qwenctl.moe.workbench import Workbench


class Prefetcher:
    """One for an opened model.

    Args:
        bench: pools and loader.
        lookahead: predicts.
        gate: decides whether it pays.
        n_used: experts of a token.
    """

    def __init__(self, bench: Workbench, lookahead: RouterLookahead, gate: PrefetchGate, n_used: int) -> None:
        self._bench, self._lookahead, self.gate, self._n_used = bench, lookahead, gate, n_used
        self._ahead: list[frozenset[int]] = [frozenset()] * len(bench.pools)
        self._n_prefetched = self._n_useful = 0
        self._began = 0.0
        self.is_on = False

    def begin_token(self) -> None:
        """A decode step of one token begins."""
        self.is_on = self.gate.begin_token()
        if self._bench.path:
            self._bench.path.enable(not self.is_on)
        self._n_prefetched = self._n_useful = 0
        self._began = perf_counter()

    def end_token(self) -> None:
        """The step is over."""
        seconds = perf_counter() - self._began
        self.gate.end_token(seconds, self._n_prefetched, min(self._n_useful, self._n_prefetched))
        self._bench.stats.n_prefetched += self._n_prefetched
        self._bench.stats.n_prefetch_used += self._n_useful
        self.is_on = False
        if self._bench.path:
            self._bench.path.enable(True)

    def after_routing(self, position: int, ids: Sequence[int], x: int) -> None:
        """A layer's experts are known: see whether the prediction was right, and read ahead for the next layer.

        Args:
            position: of the layer.
            ids: its routed experts.
            x: address of its input.
        """
        ahead = self._ahead[position]
        if ahead:
            self._n_useful += len(ahead.intersection(ids))
            self._ahead[position] = frozenset()
        if position + 1 == len(self._bench.pools):
            return
        predicted = self._lookahead.predict(position, x, self._n_used)
        slot_of = self._bench.pools[position + 1].pool.slot_of
        absent = [expert for expert in predicted if slot_of[expert] < 0]
        if absent:
            self._read(position + 1, absent, predicted)

    def _read(self, position: int, absent: Sequence[int], keep: Sequence[int]) -> None:
        started = []
        pool = self._bench.pools[position].pool
        for expert in absent[: max(0, pool.n_slots - self._n_used)]:
            try:
                self._bench.load(position, expert, keep, urgent=False, by_waiter=True)
            except ValueError:  # every slot holds an expert that must stay
                break
            started.append(expert)
        self._ahead[position] = frozenset(started)
        self._n_prefetched += len(started)
