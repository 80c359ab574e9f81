"""A batch of a layer in waves: the pairs of some experts that are in RAM are computed while others are read.

    pairs (token, place) sorted by expert      resident │ arriving in the pool │ passing through the ring
                                               wave 1    wave 2 …               wave n …

Knows nothing of llama.cpp's graphs.
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt

from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.ggml_calls import rows_at
from qwenctl.moe.layer_call import LayerCall
from qwenctl.moe.pair_graphs import GatheredGraph, IndexedGraph
from qwenctl.moe.workbench import MOST_WAVE_EXPERTS, Workbench

_DONE = abi.GGML_STATUS_SUCCESS
_PAIRS_AN_EXPERT = 4  # on average: from there on nearly every expert is used
DECODE_TOKENS = 32  # up to so many tokens, a batch is generation in several sequences rather than a prompt


class Waves:
    """One batch of one layer, computed in waves of experts that are in RAM.

    Args:
        routed: int32 (pairs,) the expert of each (token, place) pair.
        counts: int64 (n_experts,) pairs of each expert.
    """

    def __init__(
        self, bench: Workbench, position: int, call: LayerCall, routed: npt.NDArray[np.int32], counts: npt.NDArray[Any]
    ) -> None:
        self._bench, self._position, self._call = bench, position, call
        self._layer = bench.pools[position]
        self._x = bench.input_of(call)
        order = np.argsort(routed, kind="stable").astype(np.int32)
        self._counts = counts
        self._starts = np.cumsum(counts) - counts
        self._order = order
        self._tokens = order // np.int32(call.n_used)

    def run(self, experts: list[int], absent: list[int]) -> int:
        """Compute all pairs. Returns a ggml_status."""
        bench, layer, stats = self._bench, self._layer, self._bench.stats
        missing = set(absent)
        here = [expert for expert in experts if expert not in missing and expert not in layer.loading]
        late = [expert for expert in experts if expert in layer.loading]
        into_pool, through_ring = self._divide(experts, absent)
        for expert in into_pool:
            bench.load(self._position, expert, experts)
        ring = bench.ring
        ring.begin(self._position, through_ring, self._likely_next())
        stats.n_streamed += len(through_ring)
        slots = {expert: layer.slot_address(expert) for expert in here}
        status = self._compute(here, slots, in_ring=False)
        remaining = [*late, *into_pool]
        bench.hurry(self._position, late)
        while remaining and status == _DONE:
            ready = [expert for expert in remaining if layer.loading[expert].done] or remaining[:1]
            self._wait_for(ready)
            slots = {expert: layer.slot_address(expert) for expert in ready}
            status = self._compute(ready, slots, in_ring=False)
            remaining = [expert for expert in remaining if expert not in slots]
        while ring.n_expected and status == _DONE:
            began = perf_counter_ns()
            arrived = ring.arrived()
            self._note_wait(began)
            status = self._compute(list(arrived), arrived, in_ring=True)
            ring.release()
        return status

    def _likely_next(self) -> list[int]:
        """Return the absent experts of the next layer if this batch is so large that it needs nearly all of them."""
        pools, following = self._bench.pools, self._position + 1
        if following == len(pools) or len(self._order) < _PAIRS_AN_EXPERT * self._layer.layer.n_experts:
            return []
        slot_of = pools[following].pool.slot_of
        return [expert for expert in range(len(slot_of)) if slot_of[expert] < 0]

    def _divide(self, experts: list[int], absent: list[int]) -> tuple[list[int], list[int]]:
        """Say which missing experts go into the pool and which pass through the ring.

        A few tokens behave like a decode step. A prompt's batch fills free slots with its most used experts, and lets
        the others pass, so that it does not drive out what was there.
        """
        pool = self._layer.pool
        if self._call.n_tokens <= DECODE_TOKENS and len(experts) <= pool.n_slots:
            return absent, []
        by_use = sorted(absent, key=lambda expert: (-int(self._counts[expert]), expert))
        n_free = pool.n_free
        return by_use[:n_free], by_use[n_free:]

    def _wait_for(self, experts: list[int]) -> None:
        began = perf_counter_ns()
        self._layer.wait_for(experts)
        self._note_wait(began)

    def _note_wait(self, began: int) -> None:
        self._bench.stats.of(self._call.n_tokens).wait_ns += perf_counter_ns() - began

    def _compute(self, experts: list[int], slots: dict[int, int], *, in_ring: bool) -> int:
        """Compute the pairs of these experts, whose slots lie at these addresses."""
        status = _DONE
        for wave in self._waves(experts):
            if status != _DONE:
                break
            began = perf_counter_ns()
            status = self._compute_wave(wave, slots, in_ring=in_ring)
            self._bench.stats.of(self._call.n_tokens).compute_ns += perf_counter_ns() - began
        return status

    def _waves(self, experts: list[int]) -> list[list[tuple[int, int, int]]]:
        """Cut experts into waves of (expert, first pair, pairs) that fit the scratch memory."""
        most = self._bench.wave_rows
        waves: list[list[tuple[int, int, int]]] = [[]]
        n_rows = 0
        for expert in experts:
            start, left = int(self._starts[expert]), int(self._counts[expert])
            while left:
                n = min(left, most)
                if n_rows + n > most or len(waves[-1]) == MOST_WAVE_EXPERTS:
                    waves.append([])
                    n_rows = 0
                waves[-1].append((expert, start, n))
                start, left, n_rows = start + n, left - n, n_rows + n
        return [wave for wave in waves if wave]

    def _compute_wave(self, wave: list[tuple[int, int, int]], slots: dict[int, int], *, in_ring: bool) -> int:
        bench, layer, call = self._bench, self._layer, self._call
        rows = np.concatenate([self._order[start : start + n] for _, start, n in wave])
        tokens = np.concatenate([self._tokens[start : start + n] for _, start, n in wave])
        counts = np.array([n for _, _, n in wave], dtype=np.int64)
        graph: GatheredGraph | IndexedGraph
        if bench.is_per_expert(call.n_tokens):
            graph = bench.gathered_graph(layer, call.glu_params)
            graph.prepare(np.array([slots[expert] for expert, _, _ in wave], dtype=np.uint64), counts)
        else:
            graph = bench.indexed_graph(layer, call.glu_params, in_ring=in_ring)
            space = bench.ring if in_ring else layer
            numbers = [(slots[expert] - space.address) // space.slot_bytes for expert, _, _ in wave]
            graph.prepare(space.address, np.repeat(np.array(numbers, dtype=np.int32), counts))
        graph.set_pairs((self._x, call.n_tokens), (call.out, call.n_tokens * call.n_used), tokens, rows)
        status = bench.compute(graph.address)
        if bench.watch is not None and status == _DONE:
            hidden = rows_at(graph.hidden, len(rows), layer.layout.n_ff)
            bench.watch.saw_hidden(call.layer, [expert for expert, _, _ in wave], counts.tolist(), hidden)
        return status
