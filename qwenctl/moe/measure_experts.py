"""How fast this CPU multiplies a model's own experts: by layout, operation and number of tokens, in a few seconds.

The graphs, slots and layouts are those that compute later (expert_bench.py). Each point gets an equal share of the
time, and one call where that takes longer. Others use the machine too, and can only make a call slower (a thread that
waits its turn holds up the others by a thousand times a product's length), so a rate is that of the fastest call, and
where threads do not get the CPU or calls keep disagreeing, nothing is measured. All memory stays under a limit: slots
of one layout at a time. Knows nothing of what the rates are for.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial

from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.calibration import ExpertRate
from qwenctl.moe.expert_bench import MOST_EXPERTS, BenchSize, ExpertBench, Way
from qwenctl.moe.expert_loader import ExpertLoader
from qwenctl.moe.expert_map import ExpertMap, MoeLayer
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.layout_choice import ExpertKind, ExpertShape
from qwenctl.moe.slot_layout import LayoutMaker, SlotLayout
from qwenctl.units import MIB

TOKENS = (1, 4, 32, 128, 512)  # of an expert
MEMORY_BYTES = 128 * MIB
_MOST_KINDS = 3
_N_IO_THREADS = 2
_AGREEMENT = 1.2
_TICK_S = 0.004
_LEAST_CPU = 0.75  # of the time of all threads: they wait for nobody else
_MOST_SHARES = 4  # that a point takes where its calls disagree
_TOO_SLOW = 1.5  # shares for one call: not measured, the nearest point has to do
_BAD_SHARE = 0.08  # of the points: from there on the machine is too busy

Clock = Callable[[], tuple[float, float]]


def shape_of(experts: ExpertMap, maker: LayoutMaker) -> ExpertShape:
    """Return the kinds of a model's layers, the most frequent first, and the ways to compute them here."""
    names = [kind_name(layer) for layer in experts.layers]
    kinds = tuple(
        _kind(name, n_layers, experts.layers[names.index(name)], maker)
        for name, n_layers in Counter(names).most_common()
    )
    return ExpertShape(kinds, experts.n_experts, experts.n_experts_used)


def kind_name(layer: MoeLayer) -> str:
    """Return the types of a layer's experts: "Q4_K", "Q4_K/Q6_K" (down differs), "Q4_K,Q5_K/Q6_K" (gate, up, down)."""
    *first, down = (tensor.type.name for tensor in layer.tensors)
    ahead = ",".join(dict.fromkeys(first))
    return ahead if ahead == down else f"{ahead}/{down}"


def operations_of(layout: SlotLayout) -> tuple[str, ...]:
    """Return what can multiply by experts in this layout: "id" (MUL_MAT_ID, not in AMX tiles), "expert"."""
    in_tiles = layout.name == "amx" and not layout.is_plain
    return (*(() if in_tiles else ("id",)), *(("expert",) if layout.joins_gate_and_up else ()))


def measure_experts(
    ggml: Ggml,
    experts: ExpertMap,
    n_threads: int,
    *,
    budget_s: float = 2.5,
    memory_bytes: int = MEMORY_BYTES,
    clock: Clock = lambda: (time.perf_counter(), time.process_time()),
) -> tuple[ExpertRate, ...]:
    """Measure every layout and operation that this machine has for the model's three most frequent kinds of layers.

    Args:
        ggml: the library.
        experts: the model's.
        n_threads: that compute.
        budget_s: for all, reading and rearranging left out; slow machines need a little more.
        memory_bytes: that may be taken.
        clock: seconds, and seconds of CPU that this process has used.

    Returns:
        Rates, each of a kind's name; none if the memory is too small, or if others use the machine so much that calls
        keep disagreeing.

    Raises:
        ExpertReadFailed: the model's file cannot be read.
    """
    rates: list[ExpertRate] = []
    with ExitStack() as stack:
        maker = stack.enter_context(closing(LayoutMaker(ggml)))
        cpu = int(ggml.ggml_backend_cpu_init())
        stack.callback(ggml.ggml_backend_free, cpu)
        ggml.ggml_backend_cpu_set_n_threads(cpu, n_threads)
        loader = stack.enter_context(closing(ExpertLoader(experts, _N_IO_THREADS)))
        rounds = list(_rounds(experts, maker))
        n_points = len(TOKENS) * sum(len(operations_of(layout)) for _, layout in rounds)
        compute = partial(ggml.graph_compute, cpu)
        timer = _Timer(compute, clock, n_threads, budget_s / n_points, int(_BAD_SHARE * n_points))
        for position, layout in rounds:
            size = BenchSize.within(memory_bytes, layout, experts)
            if size is None:
                continue
            with closing(ExpertBench(ggml, maker, loader, position, layout, size)) as bench:
                rates += _rates(bench, timer, experts.layers[position], experts.n_experts_used)
            del bench  # its memory, before the next one's
            if timer.is_hopeless:
                return ()
    return tuple(rates)


def _kind(name: str, n_layers: int, layer: MoeLayer, maker: LayoutMaker) -> ExpertKind:
    ways = frozenset(
        (one, operation) for one in maker.available() for operation in operations_of(maker.layout(layer, one))
    )
    return ExpertKind(name, n_layers, _macs(layer), ways)


def _macs(layer: MoeLayer) -> int:
    return sum(tensor.n_in * tensor.n_out for tensor in layer.tensors)


def _rounds(experts: ExpertMap, maker: LayoutMaker) -> Iterator[tuple[int, SlotLayout]]:
    """Pairs of a layer's position and a layout: of each kind, the file's own and those that differ from it."""
    names = [kind_name(layer) for layer in experts.layers]
    for kind, _ in Counter(names).most_common(_MOST_KINDS):
        position = names.index(kind)
        for name in maker.available():
            layout = maker.layout(experts.layers[position], name)
            if name == "plain" or not layout.is_plain:
                yield position, layout


@dataclass(slots=True)
class _Timer:
    """Times calls of graphs; a point is good if its threads had the CPU and its two fastest calls agree."""

    compute: Callable[[int], int]
    clock: Clock
    n_threads: int
    share_s: float
    most_bad: int
    n_bad: int = 0

    @property
    def is_hopeless(self) -> bool:
        """Whether the machine is too busy."""
        return self.n_bad > self.most_bad

    def call_s(self, way: Way) -> float | None:
        """Return the seconds of the fastest call in a point's share, or in a few shares where calls disagree.

        None: the point is not good.
        """
        calls: list[tuple[float, float]] = []
        spent_s = 0.0
        while not calls or spent_s < (1 if len(_fastest(calls)) > 1 else _MOST_SHARES) * self.share_s:
            way.turn(len(calls))
            began, cpu_began = self.clock()
            status = self.compute(way.address)
            ended, cpu_ended = self.clock()
            seconds = max(ended - began, 1e-9)
            spent_s += seconds
            calls.append((seconds, cpu_ended - cpu_began))
            if status != abi.GGML_STATUS_SUCCESS:
                raise RuntimeError(f"ggml answers {status} to a product of experts")
        fastest = _fastest(calls)
        if len(fastest) > 1 and self._had_cpu(fastest):
            return fastest[0][0]
        self.n_bad += 1
        return None

    def _had_cpu(self, calls: list[tuple[float, float]]) -> bool:
        """Tell whether all threads computed all the time; what other threads used is told a tick late."""
        late_s = _TICK_S * (self.n_threads - 1) * len(calls)
        wall_s, cpu_s = sum(wall_s for wall_s, _ in calls), sum(cpu_s for _, cpu_s in calls)
        return cpu_s + late_s >= _LEAST_CPU * self.n_threads * wall_s


def _fastest(calls: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the calls (seconds, seconds of CPU) that agree with the fastest, in ascending order."""
    in_order = sorted(calls)
    return [call for call in in_order if call[0] <= _AGREEMENT * in_order[0][0]]


def _rates(bench: ExpertBench, timer: _Timer, layer: MoeLayer, n_used: int) -> Iterator[ExpertRate]:
    for operation in operations_of(bench.layout):
        macs_s = float("inf")
        for n_tokens in TOKENS:
            expert_s = n_tokens * _macs(layer) / macs_s  # at the rate of the point before
            n_experts = min(n_used, bench.size.n_slots)
            if n_tokens > 1:
                most = min(MOST_EXPERTS, bench.size.n_slots, bench.size.n_rows // n_tokens)
                n_experts = min(most, max(1, int(timer.share_s / expert_s)))
            too_slow = n_tokens > 1 and expert_s * n_experts > _TOO_SLOW * timer.share_s
            if n_experts == 0 or too_slow or timer.is_hopeless:
                break
            way = bench.way(operation, n_tokens, n_experts)
            seconds = timer.call_s(way)
            if seconds is not None:
                macs_s = way.n_pairs * _macs(layer) / seconds
                yield ExpertRate(kind_name(layer), bench.layout.name, operation, n_tokens, macs_s)
            elif n_tokens == 1:  # nothing stands in for it
                timer.n_bad = timer.most_bad + 1
                break
