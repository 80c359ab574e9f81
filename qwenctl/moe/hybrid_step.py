"""One call of an expert layer that has slots on a device: the device and the CPU compute side by side.

    routed ids ─► split by what lies where and what it costs ─► device: queued, no Python until the end
                                                             └► CPU: pool, ring and reads as without devices
               ─► wait for the device ─► its rows to their places ─► bring what pays back for later

A layer without slots, and a call none of whose experts goes to the device, take the steps for the CPU alone. Experts
that the device computes count as used there, not in RAM, so that the two hold different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter, perf_counter_ns

import numpy as np
import numpy.typing as npt

from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.batch_step import BatchStep
from qwenctl.moe.costs import Costs
from qwenctl.moe.device_costs import WAITED_S
from qwenctl.moe.device_executor import Run
from qwenctl.moe.device_pools import DevicePool
from qwenctl.moe.device_prompt import PromptCall
from qwenctl.moe.expert_pools import LayerSlots
from qwenctl.moe.hybrid_devices import CpuPart, HybridDevices
from qwenctl.moe.layer_call import LayerCall
from qwenctl.moe.schedule import Counts, LayerPlan, Routed, plan_equals, plan_layer
from qwenctl.moe.token_graph import TokenGraph
from qwenctl.moe.token_step import TokenStep
from qwenctl.moe.waves import Waves
from qwenctl.moe.workbench import Workbench

_DONE = abi.GGML_STATUS_SUCCESS
_DECODE_TOKENS = 32  # from there on a batch is a prompt's, which says little about what decoding will want


class Split:
    """Decides a layer's split and brings uploads along, and others for later; shared by both steps.

    Args:
        devices: of the model.
        position: of the layer, which has slots on a device.
        pool: those slots.
        layer: its slots in RAM.
    """

    def __init__(self, devices: HybridDevices, position: int, pool: DevicePool, layer: LayerSlots) -> None:
        self._devices, self._position, self._pool, self._layer = devices, position, pool, layer
        self._missing: list[int] = []  # of the last call's experts, those that lay nowhere
        self._n_sent = 0  # experts of the last call that came along
        self._costs: Costs | None = None
        self._known: dict[tuple[Counts, int], Counts] = {}
        self._can_copy = layer.layout.is_plain and devices.policy.uploads_now

    def of_tokens(self, experts: Sequence[int], counts: Sequence[int] | None) -> set[int]:
        """Return which of the distinct experts the device computes; those that must come along are there then.

        Args:
            experts: routed in this call.
            counts: tokens of each; None: one each.
        """
        here, in_ram, loading = self._pool.slot_of, self._layer.pool.slot_of, self._layer.loading
        kinds: tuple[list[int], ...] = ([], [], [], [])
        for expert in experts:
            ready = in_ram[expert] >= 0 and expert not in loading
            kinds[ready if here[expert] >= 0 else 3 - ready].append(expert)
        self._missing = kinds[3]
        costs = self._devices.costs(self._position)
        # One that is on its way already is the CPU's for now.
        able = [one for one in kinds[2] if not self._pool.is_on_way(one)] if self._can_copy else []
        room = max(0, min(len(able), self._room(kinds)))
        if counts is None:
            sizes: Counts = (len(kinds[0]), len(kinds[1]), len(kinds[2]), 0)
            if not room and not kinds[1]:
                self._n_sent = 0
                return set(kinds[0])
            taken = self._taken(costs, sizes, room)
            kinds = (*kinds[:2], able, kinds[3])
            chosen = [expert for kind, n in zip(kinds, taken, strict=True) for expert in kind[:n]]
        else:
            # What is on disk is the CPU's: it is there long after the device has begun.
            routed = [
                Routed(expert, n, here[expert] >= 0, in_ram[expert] >= 0 and expert not in loading)
                for expert, n in zip(experts, counts, strict=True)
                if here[expert] >= 0 or expert in able
            ]
            chosen = list(plan_layer(routed, costs, room).device) if routed else []
        sent = [expert for expert in chosen if here[expert] < 0]
        for expert in sent:
            self._bring_along(expert, experts)
        self._n_sent = len(sent)
        return set(chosen)

    def telling(self, n_experts: int) -> tuple[int, ...]:
        """Return the tokens of each expert that the device computed for one token; none if some came along.

        Those were on their way before the run began: its time is not that of computing, nor of that and the sending.
        """
        return () if self._n_sent else (1,) * n_experts

    def bring(self, on_device: Sequence[int], on_cpu: Sequence[int], keep: Sequence[int]) -> None:
        """After a decode step: publish what has arrived, and bring what pays back for later.

        Args:
            on_device: experts that the device computed.
            on_cpu: those that the CPU did.
            keep: all of them.
        """
        if on_cpu:
            self._devices.bring(self._position, self._done(on_device, on_cpu), keep, self._layer)
        else:
            self._devices.publish(self._position)

    def _done(self, on_device: Sequence[int], on_cpu: Sequence[int]) -> LayerPlan:
        """Return a decode step that was done as a plan, with the times that it should have taken."""
        costs = self._devices.costs(self._position)
        device_s = costs.device_call_s + len(on_device) * costs.device(1) if on_device else 0.0
        cpu_s = len(on_cpu) * costs.cpu(1) + len(self._missing) * costs.disk_s_per_expert
        return LayerPlan(tuple(on_device), (), tuple(on_cpu), tuple(self._missing), device_s, cpu_s)

    def _taken(self, costs: Costs, sizes: Counts, room: int) -> Counts:
        """Look the split up: costs are the same object until they are refreshed."""
        if costs is not self._costs:
            self._costs, self._known = costs, {}
        taken = self._known.get((sizes, room))
        if taken is None:
            taken = self._known[sizes, room] = plan_equals(costs, sizes, room)
        return taken

    def _room(self, kinds: Sequence[Sequence[int]]) -> int:
        """Return how many experts may come along: slots that this call does not use."""
        return self._pool.slots.n_slots - self._pool.n_on_way - len(kinds[0]) - len(kinds[1])

    def _bring_along(self, expert: int, keep: Sequence[int]) -> None:
        self._devices.tier.upload_queued(self._position, expert, self._layer.matrices_of(expert), keep)
        self._devices.n_uploads_now += 1


class HybridTokenStep(TokenStep):
    """One token, a product an expert on the CPU."""

    def __init__(
        self, bench: Workbench, position: int, call: LayerCall, graph: TokenGraph, devices: HybridDevices
    ) -> None:
        super().__init__(bench, position, call, graph)
        pool = devices.pool(position)
        if pool is None:
            raise ValueError(f"layer {position} has no slots on a device")
        self._devices, self._device_pool = devices, pool
        self._split = Split(devices, position, pool, self._layer)

    def __call__(self) -> int:
        """Compute; returns a ggml_status."""
        began = perf_counter_ns()
        ids = self._ids[:]
        self._device_pool.use(ids)
        self._layer.settle()
        on_device = self._split.of_tokens(ids, None)
        if not on_device:
            status = super().__call__()
            self._split.bring([], ids, ids)
            return status
        self._tell(ids)
        self._stats.token.count(len(ids), 0)  # less those that turn out to be on disk
        there = [place for place, expert in enumerate(ids) if expert in on_device]
        slot_of, call, devices = self._device_pool.slot_of, self._call, self._devices
        slots = [slot_of[ids[place]] for place in there]
        self._x = self._bench.input_of(call)
        run = devices.tier.start(self._position, slots, None, self._x, call.glu_params)
        queued = perf_counter_ns()
        try:
            cpu = [place for place, expert in enumerate(ids) if expert not in on_device]
            status, part = self._on_cpu(ids, cpu) if cpu else (_DONE, CpuPart())
        except BaseException:
            devices.tier.abandon()
            raise
        computed = perf_counter_ns()
        devices.tier.finish(self._position, run, call.out, there)
        devices.note(self._position, run, self._split.telling(len(there)), part)
        self._split.bring([ids[place] for place in there], [ids[place] for place in cpu], ids)
        self._stats.missing_overhead_ns.append(queued - began + perf_counter_ns() - computed)
        return status

    def _on_cpu(self, ids: list[int], places: list[int]) -> tuple[int, CpuPart]:
        """Compute some of the token's experts. Returns a ggml_status and what was done."""
        bench, stats, began = self._bench, self._stats, perf_counter()
        experts = [ids[place] for place in places]
        absent = self._pool.use(experts)
        for expert in absent:
            bench.load(self._position, expert, experts)
        stats.token.misses += len(absent)
        stats.token.hits -= len(absent)
        status, _, waited_ns = self._in_parts(ids, places)
        return status, CpuPart((1,) * len(places), perf_counter() - began, waited_ns > 0)


class HybridBatchStep(BatchStep):
    """Any number of tokens."""

    def __init__(self, bench: Workbench, position: int, call: LayerCall, devices: HybridDevices) -> None:
        super().__init__(bench, position, call)
        pool = devices.pool(position)
        if pool is None:
            raise ValueError(f"layer {position} has no slots on a device")
        self._devices, self._device_pool = devices, pool
        self._split = Split(devices, position, pool, self._layer)

    def __call__(self) -> int:
        """Compute; returns a ggml_status."""
        call, layer, devices = self._call, self._layer, self._devices
        routed = self._ids.flatten()
        counts = np.bincount(routed, minlength=layer.layer.n_experts)
        experts: list[int] = np.flatnonzero(counts).tolist()
        decoding = call.n_tokens <= _DECODE_TOKENS
        if decoding:
            self._device_pool.use(experts)
        layer.settle()
        if not decoding and devices.tier.takes_prompts(self._position, call.n_tokens):
            return self._prompt(routed, counts, experts)
        n_tokens = counts[experts].tolist()
        on_device = self._split.of_tokens(experts, None if call.n_tokens == 1 else n_tokens)
        if not on_device:
            status = super().__call__()
            if decoding:
                self._split.bring([], experts, experts)
            return status
        self._tell(routed)
        # As if all were present: those that turn out to be on disk are taken off later.
        self._bench.stats.of(call.n_tokens).count(len(experts), 0)
        pairs, run = self._start(routed, on_device)
        rest = [expert for expert in experts if expert not in on_device]
        try:
            status, part = self._on_cpu(routed, counts, rest) if rest else (_DONE, CpuPart())
        except BaseException:
            devices.tier.abandon()
            raise
        devices.tier.finish(self._position, run, call.out, pairs)
        there = [expert for expert in experts if expert in on_device]
        devices.note(self._position, run, self._split.telling(len(there)) if call.n_tokens == 1 else (), part)
        if decoding:
            self._split.bring(there, rest, experts)
        return status

    def _prompt(self, routed: npt.NDArray[np.int32], counts: npt.NDArray[np.int64], experts: list[int]) -> int:
        """Compute on the device what lies there or is quicker brought there; returns a ggml_status."""
        call, layer, devices, position = self._call, self._layer, self._devices, self._position
        here = self._device_pool.slot_of
        in_ram = [one for one in experts if here[one] < 0 and layer.layout.is_plain and layer.ready[one] >= 0]
        passing = in_ram if devices.passes(position, counts[in_ram].tolist()) else []
        taken = {*passing, *(expert for expert in experts if here[expert] >= 0)}
        if not taken:
            return super().__call__()
        self._tell(routed)
        self._bench.stats.of(call.n_tokens).count(len(experts), 0)
        rest = [expert for expert in experts if expert not in taken]
        sources = [(expert, layer.matrices_of(expert)) for expert in passing]
        x = self._bench.input_of(call)
        devices.tier.start_prompt(position, PromptCall(routed, call.n_used, sources, x, call.glu_params))
        try:
            status, part = self._on_cpu(routed, counts, rest) if rest else (_DONE, CpuPart())
        except BaseException:
            devices.tier.abandon()
            raise
        pairs = np.flatnonzero(np.isin(routed, rest)) if rest else None
        waited_s = devices.tier.finish_prompt(position, call.out, pairs)
        devices.count(part, waited=waited_s >= WAITED_S)
        return status

    def _start(self, routed: npt.NDArray[np.int32], on_device: set[int]) -> tuple[list[int], Run]:
        """Queue the device's pairs; returns their places in the output."""
        call = self._call
        slots = np.full(self._layer.layer.n_experts, -1)
        chosen = list(on_device)
        slots[chosen] = [self._device_pool.slot_of[expert] for expert in chosen]
        slots_of_pairs = slots[routed]
        pairs = np.flatnonzero(slots_of_pairs >= 0)
        tokens = (pairs // call.n_used).tolist() if call.n_tokens > 1 else None
        picked = slots_of_pairs[pairs].tolist()
        x = self._bench.input_of(call)
        run = self._devices.tier.start(self._position, picked, tokens, x, call.glu_params)
        return pairs.tolist(), run

    def _on_cpu(
        self, routed: npt.NDArray[np.int32], counts: npt.NDArray[np.int64], experts: list[int]
    ) -> tuple[int, CpuPart]:
        """Compute the pairs of some experts. Returns a ggml_status and what was done."""
        bench, layer = self._bench, self._layer
        absent = layer.pool.use(experts)
        phase = bench.stats.of(self._call.n_tokens)
        phase.hits -= len(absent)
        phase.misses += len(absent)
        waits = bool(absent) or any(expert in layer.loading for expert in experts)
        began = perf_counter()
        status = Waves(bench, self._position, self._call, routed, counts).run(experts, absent)
        return status, CpuPart(tuple(counts[experts].tolist()), perf_counter() - began, waits)


def hybrid_step(
    bench: Workbench, position: int, call: LayerCall, devices: HybridDevices | None
) -> Callable[[], int] | None:
    """Return the step of a layer that has slots on a device; None: it has none, the CPU's steps compute it.

    Args:
        bench: what all steps share.
        position: of the layer in the expert map.
        call: what llama.cpp asks for.
        devices: of the model, None: none.
    """
    if devices is None or devices.pool(position) is None:
        return None
    if call.n_tokens == 1 and bench.decode_per_expert:
        graph = bench.layer_token_graph(position, call.n_used, call.glu_params)
        return HybridTokenStep(bench, position, call, graph, devices)
    return HybridBatchStep(bench, position, call, devices)
