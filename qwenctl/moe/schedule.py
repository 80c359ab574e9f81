"""What one layer computes where in one step, what it loads and in which order, what it uploads: decided on values.

    routed experts + where they lie + measured costs  →  LayerPlan

Each routed expert is computed by the layer's device or by the CPU. Those that lie where they compute cost their
computing; one that must come over first costs the upload; one that lies nowhere must be read from disk before either.
Both sides work at once, so the plan wants them to end together (the split q* of FreeToken, arXiv 2608.16157): experts
are ranked by what the device would take for them against what the CPU would, and of all cuts through that ranking the
one that ends first is taken. All on either side, and each expert where it lies, are among the cuts: the plan is never
worse than those. In a decode step (one token an expert) every split is tried, so none ends sooner.

Pure and deterministic: knows nothing of devices, files, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

from qwenctl.moe.costs import Costs

# An upload for later must save this many times what it costs, and an expert must be this much hotter than the one it
# drives out: heat is an estimate, and two experts of equal heat must not change places at each step.
HYSTERESIS = 2.0

Counts = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Routed:
    """One distinct expert of a step, and where its weights lie.

    Args:
        expert: its number in the layer.
        n_tokens: tokens routed to it, at least 1.
        on_device: it lies in a slot of the layer's device.
        in_ram: it lies in a slot in RAM.
    """

    expert: int
    n_tokens: int
    on_device: bool
    in_ram: bool


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What one layer does in one step.

    Attributes:
        device: experts the device computes, those that lie there first, then `uploads_now` in order.
        uploads_now: experts of `device` to be copied there before.
        cpu: experts the CPU computes: those in RAM first, then those of `loads` that are its own, in order.
        loads: experts to read from disk into RAM, in order.
        device_s, cpu_s: when each side ends, by the costs; 0.0 for a side without work.
    """

    device: tuple[int, ...]
    uploads_now: tuple[int, ...]
    cpu: tuple[int, ...]
    loads: tuple[int, ...]
    device_s: float
    cpu_s: float

    @property
    def ends_s(self) -> float:
        """When the layer is done."""
        return max(self.device_s, self.cpu_s)


def plan_layer(routed: Sequence[Routed], costs: Costs, max_uploads_now: int = 0) -> LayerPlan:
    """Split a step's experts over the layer's device and the CPU.

    Args:
        routed: the step's distinct experts.
        costs: of this layer and its device.
        max_uploads_now: device slots that experts computed in this step may be uploaded to; 0: none.
    """
    split = _Split(routed, costs)
    best = min(_cuts(split.ranked, max_uploads_now), key=split.merit)
    return split.plan(best)


@lru_cache(maxsize=8192)
def plan_equals(costs: Costs, counts: Counts, max_uploads_now: int = 0) -> Counts:
    """Return how many of each kind the device computes, when every expert has one token: the decode step.

    The split depends on nothing but these counts, so the hot path pays a look-up for it, and every split can be tried.

    Args:
        costs: of this layer and its device.
        counts: numbers of routed experts that lie (on the device alone, there and in RAM, in RAM alone, nowhere).
        max_uploads_now: as in `plan_layer`.

    Returns:
        Of each of the four kinds, in the same order, how many go to the device; the others to the CPU.
    """
    where = ((True, False), (True, True), (False, True), (False, False))
    kinds = [index for index, count in enumerate(counts) for _ in range(count)]
    split = _Split([Routed(expert, 1, *where[kind]) for expert, kind in enumerate(kinds)], costs)
    starts = [sum(counts[:index]) for index in range(4)]

    def merit(taken: tuple[int, ...]) -> tuple[float, int, int, float]:
        pairs = zip(starts, taken, strict=True)
        return split.merit(frozenset(expert for start, n in pairs for expert in range(start, start + n)))

    every = product(*(range(count + 1) for count in counts))
    a, b, c, d = min((taken for taken in every if taken[2] + taken[3] <= max_uploads_now), key=merit)
    return a, b, c, d


def plan_uploads(
    plan: LayerPlan,
    costs: Costs,
    candidates: Iterable[tuple[int, float]],
    residents: Iterable[tuple[int, float]],
    *,
    n_free: int,
    max_uploads: int,
    hysteresis: float = HYSTERESIS,
) -> tuple[tuple[int, int], ...]:
    """Choose which experts in RAM to copy to the device for later steps, because that pays back.

    Heat counts decayed uses, so it is also the number of uses to expect over the same span: an expert is worth
    heat × the time a step gets shorter by having it there. That must exceed the upload's time `hysteresis` times over
    and what the expert that leaves was worth, and the newcomer must be `hysteresis` times as hot.

    Args:
        plan: this step's; it says by how much the layer's end would have come sooner.
        costs: of this layer and its device.
        candidates: (expert, heat) of experts in RAM that are not on the device.
        residents: (expert, heat) of experts on the device that may leave.
        n_free: free slots on the device.
        max_uploads: at most that many.
        hysteresis: at least 1.

    Returns:
        (expert, expert that leaves or -1) in order of heat.
    """
    saved_s = _saved_by_one_more(plan, costs)
    if saved_s <= 0 or max_uploads <= 0:
        return ()
    leaving = sorted(residents, key=lambda pair: (pair[1], pair[0]))
    chosen: list[tuple[int, int]] = []
    for expert, heat in sorted(candidates, key=lambda pair: (-pair[1], pair[0]))[:max_uploads]:
        victim, lost_heat = (-1, 0.0) if len(chosen) < n_free else _next(leaving, len(chosen) - n_free)
        pays = (heat - lost_heat) * saved_s > costs.loaded_upload_s_per_expert * hysteresis
        if not pays or heat <= lost_heat * hysteresis:
            break
        chosen.append((expert, victim))
    return tuple(chosen)


def _next(leaving: Sequence[tuple[int, float]], index: int) -> tuple[int, float]:
    return leaving[index] if index < len(leaving) else (-1, float("inf"))


def _saved_by_one_more(plan: LayerPlan, costs: Costs) -> float:
    """Return the seconds that this step would have been shorter by, had the device held one of the CPU's experts.

    It would have left its slot in RAM to another, so it takes its share of the reads along.
    """
    if not plan.cpu:
        return 0.0
    device_s = (plan.device_s or costs.device_call_s) + costs.device(1)
    share_s = costs.cpu(1) + costs.disk_s_per_expert * len(plan.loads) / len(plan.cpu)
    return plan.ends_s - max(plan.cpu_s - share_s, device_s)


class _Split:
    """A step's experts with their costs looked up, ready to play splits through."""

    def __init__(self, routed: Sequence[Routed], costs: Costs) -> None:
        self._costs = costs
        self._cpu_s = {item.expert: costs.cpu(item.n_tokens) for item in routed}
        self._device_s = {item.expert: costs.device(item.n_tokens) for item in routed}
        self.ranked = sorted(routed, key=self._rank)
        self._not_in_ram = [item for item in routed if not item.in_ram]

    def merit(self, chosen: frozenset[int]) -> tuple[float, int, int, float]:
        """Return what makes a split better when smaller: its end, then reads, uploads and work in all."""
        device_s, cpu_s, n_loads, n_uploads = self._played(chosen)
        return max(device_s, cpu_s), n_loads, n_uploads, device_s + cpu_s

    def plan(self, chosen: frozenset[int]) -> LayerPlan:
        """Return the plan of a split."""
        device_s, cpu_s, _, _ = self._played(chosen)
        loads = tuple(expert for _, expert in self._reads(chosen))
        device = [item for item in self.ranked if item.expert in chosen]
        uploads = tuple(item.expert for item in device if item.in_ram and not item.on_device)
        uploads += tuple(expert for expert in loads if expert in chosen)
        cpu = tuple(item.expert for item in self.ranked if item.in_ram and item.expert not in chosen)
        return LayerPlan(
            device=tuple(item.expert for item in device if item.on_device) + uploads,
            uploads_now=uploads,
            cpu=cpu + tuple(expert for expert in loads if expert not in chosen),
            loads=loads,
            device_s=device_s,
            cpu_s=cpu_s,
        )

    def _played(self, chosen: frozenset[int]) -> tuple[float, float, int, int]:
        """Return the end of both sides, reads and uploads: each side first has what lies there, then what arrives."""
        costs = self._costs
        upload_s = self._upload_s(chosen)
        device_s = costs.device_call_s if chosen else 0.0
        cpu_s = 0.0
        n_loads = n_uploads = 0
        for item in self.ranked:
            if item.expert not in chosen:
                cpu_s += self._cpu_s[item.expert] if item.in_ram else 0.0
            elif item.on_device:
                device_s += self._device_s[item.expert]
            else:
                n_uploads += 1
                device_s += self._device_s[item.expert] + upload_s if item.in_ram else 0.0
        for work_s, expert in self._reads(chosen):
            n_loads += 1
            arrives_s = n_loads * costs.disk_s_per_expert
            if expert in chosen:
                device_s = max(device_s, arrives_s) - work_s
            else:
                cpu_s = max(cpu_s, arrives_s) - work_s
        return device_s, cpu_s, n_loads, n_uploads

    def _reads(self, chosen: frozenset[int]) -> list[tuple[float, int]]:
        """Return (minus the seconds of work after it, expert) of each read, in order: the longest work first.

        Reads take as long for each expert, so that order keeps both sides busy.
        """
        upload_s = self._upload_s(chosen)
        return sorted(
            (
                -(self._device_s[item.expert] + upload_s if item.expert in chosen else self._cpu_s[item.expert]),
                item.expert,
            )
            for item in self._not_in_ram
            if not (item.on_device and item.expert in chosen)
        )

    def _upload_s(self, chosen: frozenset[int]) -> float:
        alone = len(chosen) == len(self.ranked)
        return self._costs.upload_s_per_expert if alone else self._costs.loaded_upload_s_per_expert

    def _rank(self, item: Routed) -> tuple[float, int]:
        """Order by how an expert suits the device: its time there against the CPU's, with what must come over."""
        device_s, cpu_s = self._device_s[item.expert], self._cpu_s[item.expert]
        if not item.on_device:
            device_s += self._costs.loaded_upload_s_per_expert
        elif not item.in_ram:
            cpu_s += self._costs.disk_s_per_expert
        return device_s / cpu_s, item.expert


def _cuts(ranked: Sequence[Routed], max_uploads_now: int) -> Iterator[frozenset[int]]:
    """Yield what the device computes: what lies there; nothing, then one more at a time down the ranking."""
    yield frozenset(item.expert for item in ranked if item.on_device)
    chosen: frozenset[int] = frozenset()
    n_uploads = 0
    yield chosen
    for item in ranked:
        if not item.on_device:
            if n_uploads == max_uploads_now:
                continue
            n_uploads += 1
        chosen |= {item.expert}
        yield chosen
