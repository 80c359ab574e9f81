"""Devices at work beside the CPU: what each layer's step sends there, what is brought there for later, what it costs.

Three things meet here: what the devices hold (DeviceTier), what everything costs (Costs, which follow the measured
times), and where experts come from:

    RAM, all experts there in the file's layout    copied beside the computing: by the device itself from pinned memory,
                                                   else by a thread of ours
    the model's files                              read by the I/O threads, behind whatever a step waits for

The decisions themselves are schedule.py's. Knows nothing of graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from qwenctl.errors import ExpertReadFailed
from qwenctl.moe.costs import Costs, Measured, updated
from qwenctl.moe.device_copier import DeviceCopier
from qwenctl.moe.device_costs import WAITED_S, device_seconds, measured_costs
from qwenctl.moe.device_executor import Run
from qwenctl.moe.device_pools import DevicePool
from qwenctl.moe.device_tier import DeviceTier
from qwenctl.moe.expert_loader import Ticket
from qwenctl.moe.expert_map import ExpertMap
from qwenctl.moe.expert_pools import LayerSlots
from qwenctl.moe.expert_reader import ExpertReader
from qwenctl.moe.host_memory import PinnedPages, host_buffer_type
from qwenctl.moe.read_queue import ReadTicket
from qwenctl.moe.schedule import LayerPlan, plan_uploads

# Plans are looked up by costs, so those used for planning follow the measured ones only so often.
_STEPS_A_REFRESH = 512
_LOOKS_EVERY = 4  # steps of a layer between two looks for experts to bring from far
_LEARNS_EVERY = 8  # steps of all layers
_MOST_UNDER_WAY = 16  # experts that are brought


@dataclass(frozen=True, slots=True)
class DevicePolicy:
    """What a step may do with devices.

    Attributes:
        costs: to begin with, of every device; None: measured while opening, a few milliseconds a device.
        learns: whether measurements change the costs.
        brings: whether experts are brought to devices for later steps.
        uploads_now: whether a step may bring an expert and compute it there, if that is sooner.
        is_near: whether experts may be sent to devices freely, to fill their slots and for one prompt; None: to those
            of this machine, not over a network.
    """

    costs: Costs | None = None
    learns: bool = True
    brings: bool = True
    uploads_now: bool = True
    is_near: bool | None = None


@dataclass(frozen=True, slots=True)
class CpuPart:
    """What the CPU did while the device computed.

    Attributes:
        counts: tokens of each expert; empty: nothing.
        compute_s: its time, without waiting: all of it, not only that of the products.
        waited_for_reads: whether it waited for experts from disk in between.
    """

    counts: tuple[int, ...] = ()
    compute_s: float = 0.0
    waited_for_reads: bool = False


class HybridDevices:
    """Devices of an opened model.

    Args:
        tier: the devices.
        experts: where experts lie in the files.
        reader: reads them. It must be closed before the tier is.
        policy: what may be done.
    """

    def __init__(
        self, tier: DeviceTier, experts: ExpertMap, reader: ExpertReader, policy: DevicePolicy | None = None
    ) -> None:
        self.tier, self.policy = tier, policy or DevicePolicy()
        self._experts, self._reader = experts, reader
        self._copier = DeviceCopier()
        self._pins: dict[str, PinnedPages] = {}
        self._pinned: set[int] = set()  # positions of layers all of whose slots in RAM are
        self._measured: dict[str, Costs] = {}
        self._unpinned_s: dict[str, float] = {}  # an upload from ordinary memory
        for position in range(len(experts.layers)):
            if tier.pool(position) is not None and tier.label_of(position) not in self._measured:
                self._measure(position)
        tier.reset_counts()
        self._refresh()
        self._under_way: list[dict[int, _Arriving]] = [{} for _ in experts.layers]
        self._n_brought = 0  # of those under way
        self._looks = [0] * len(experts.layers)
        self.n_steps = 0  # in which a device computed
        self.n_shared_steps = 0  # of these: the CPU did too
        self.n_overlapped_steps = 0  # of these: the device was still at it when the CPU had done its part
        self.overlapped_s = 0.0  # the CPU's time in them: both computed throughout
        self.n_uploads_now = 0  # experts that came along with the step that computed them

    def pin(self, pools: Sequence[LayerSlots]) -> None:
        """Have the slots in RAM pinned, in the background, where devices can copy from them: none may be moved then.

        Args:
            pools: by position.
        """
        for position, layer in enumerate(pools):
            device = self.tier.device_of(position)
            if device is None or not layer.layout.is_plain:
                continue
            pins = self._pins.setdefault(device.label, PinnedPages(self.tier.calls, device))
            if pins.is_possible:
                n_bytes = layer.pool.n_slots * layer.slot_bytes
                self._copier.submit("slots in RAM", partial(self._pin, position, pins, layer.address, n_bytes))

    def fill(self, position: int, expert: int, layer: LayerSlots) -> None:
        """Bring an expert that has or gets a slot in RAM, as soon as it is there, if a device slot is free.

        Args:
            position: of the layer.
            expert: which one; in `layer.loading`, or there.
            layer: its slots in RAM.
        """
        pool = self.tier.pool(position)
        if pool is None or not self.policy.brings or not self._is_near(position):
            return
        if pool.slots.n_free and pool.slots.slot_of[expert] < 0:
            self._bring(position, expert, (), layer)

    def passes(self, position: int, counts: Sequence[int]) -> bool:
        """Return whether experts in RAM are quicker brought to the layer's device, for one use, than computed here.

        All of them or none: where both compute, what comes from the device must be put between the others' rows.

        Args:
            position: of the layer.
            counts: tokens of each.
        """
        if not counts or not self.policy.uploads_now or not self._is_near(position):
            return False
        costs = self.costs(position)
        return len(counts) * costs.upload_s_per_expert + costs.device.total(counts) < costs.cpu.total(counts)

    def pool(self, position: int) -> DevicePool | None:
        """Return a layer's device slots, None: it has none."""
        return self.tier.pool(position)

    def costs(self, position: int) -> Costs:
        """Return the costs to plan a layer with."""
        known = self._planning if position in self._pinned else self._planning_unpinned
        return known[self.tier.label_of(position)]

    def count(self, cpu: CpuPart, *, waited: bool) -> None:
        """Count a step in which a device computed.

        Args:
            cpu: what the CPU did meanwhile.
            waited: whether the device ended last.
        """
        self.n_steps += 1
        if cpu.counts:
            self.n_shared_steps += 1
            if waited:
                self.n_overlapped_steps += 1
                self.overlapped_s += cpu.compute_s

    def note(self, position: int, run: Run, device_counts: Sequence[int], cpu: CpuPart) -> None:
        """Learn from a step.

        Args:
            position: of the layer.
            run: finished.
            device_counts: tokens of each expert of the run; empty: its time says nothing about runs of one token.
            cpu: what the CPU did meanwhile.
        """
        self.count(cpu, waited=run.ended_s - run.waited_from_s >= WAITED_S)
        if not self.policy.learns or self.n_steps % _LEARNS_EVERY:
            return
        label = self.tier.label_of(position)
        costs = self._measured[label]
        device_s = device_seconds(run, costs.device_call_s + costs.device.total(device_counts))
        counts, cpu_s = ((), 0.0) if cpu.waited_for_reads else (cpu.counts, cpu.compute_s)
        self._measured[label] = updated(
            costs,
            Measured(cpu_counts=counts, cpu_s=cpu_s, device_counts=tuple(device_counts), device_s=device_s),
        )
        if self.n_steps % _STEPS_A_REFRESH == 0:
            self._refresh()

    def bring(self, position: int, plan: LayerPlan, keep: Collection[int], layer: LayerSlots) -> None:
        """Begin to bring what the CPU computed to the device, if that pays back; publish what has arrived.

        Args:
            position: of the layer.
            plan: of the step just done.
            keep: its experts.
            layer: its slots in RAM.
        """
        self.publish(position)
        self._looks[position] += 1
        pool, room = self.tier.pool(position), _MOST_UNDER_WAY - self._n_brought
        if pool is None or not self.policy.brings or not plan.cpu or room <= 0:
            return
        absent = [expert for expert in plan.cpu if pool.slots.slot_of[expert] < 0]
        if _keeps_all(layer) and self._is_near(position):  # a copy costs no step anything: as a cache would
            chosen = sorted(absent, key=lambda expert: -pool.slots.heat[expert])[:room]
        elif self._looks[position] % _LOOKS_EVERY == 0:
            chosen = self._paying(position, plan, absent, keep, room)
        else:
            return
        for expert in chosen:
            if not pool.takes(expert, keep):
                return
            self._bring(position, expert, keep, layer, counts=True)

    def settle(self, *, wait: bool = False) -> None:
        """Publish experts that have arrived; with `wait`, all that are on their way."""
        for position in range(len(self._under_way)):
            self.publish(position, wait=wait)

    def publish(self, position: int, *, wait: bool = False) -> None:
        """Let a layer's experts that have arrived be computed with; with `wait`, all that are on their way."""
        arriving = self._under_way[position]
        for expert in [expert for expert, one in arriving.items() if wait or one.ticket.done]:
            one = arriving.pop(expert)
            with suppress(ExpertReadFailed):  # `error` says so too
                one.ticket.wait()
            self._n_brought -= one.counts
            self.tier.end_upload(position, expert, arrived=one.ticket.error is None)

    def as_json(self) -> dict[str, Any]:
        """Return what devices hold and did, for `--stats`."""
        return {
            "steps": self.n_steps,
            "shared_steps": self.n_shared_steps,
            "overlapped_steps": self.n_overlapped_steps,
            "overlapped_s": self.overlapped_s,
            "uploads_now": self.n_uploads_now,
            "notes": list(self.tier.notes),
            "devices": [asdict(facts) for facts in self.tier.stats()],
            "costs_us": {label: _microseconds(costs) for label, costs in self._measured.items()},
        }

    def close(self) -> None:
        """Free the devices."""
        for arriving in self._under_way:
            for one in arriving.values():
                one.ticket.cancel()
        self._copier.close()
        self.settle(wait=True)
        self.tier.close()
        for pins in self._pins.values():
            pins.close()

    def _paying(
        self, position: int, plan: LayerPlan, absent: Sequence[int], keep: Collection[int], room: int
    ) -> list[int]:
        """Return which absent experts are worth the bringing."""
        pool = self.tier.pool(position)
        if pool is None:
            return []
        moves = plan_uploads(
            plan,
            self.costs(position),
            [(expert, pool.uses_of(expert)) for expert in absent],
            pool.coldest(room, keep) if not pool.slots.n_free else (),
            n_free=pool.slots.n_free,
            max_uploads=room,
        )
        return [expert for expert, _ in moves]

    def _measure(self, position: int) -> None:
        device, given = self.tier.device_at(position), self.policy.costs
        costs = slow = given or measured_costs(self.tier, position)
        if given is None and host_buffer_type(self.tier.calls, device):  # else it has just sent from ordinary memory
            slow = measured_costs(self.tier, position, pinned=False)
        self._measured[device.label], self._unpinned_s[device.label] = costs, slow.upload_s_per_expert

    def _refresh(self) -> None:
        """Plan with what is known by now."""
        self._planning = dict(self._measured)
        self._planning_unpinned = {
            label: costs.with_upload(self._unpinned_s[label]) for label, costs in self._planning.items()
        }

    def _pin(self, position: int, pins: PinnedPages, address: int, n_bytes: int) -> None:
        if pins.pin(address, n_bytes):
            self._pinned.add(position)

    def _is_near(self, position: int) -> bool:
        near = self.policy.is_near
        return not self.tier.device_at(position).is_remote if near is None else near

    def _bring(
        self, position: int, expert: int, keep: Collection[int], layer: LayerSlots, *, counts: bool = False
    ) -> None:
        if position in self._pinned and layer.ready[expert] >= 0 and self.tier.can_copy_beside(position):
            self.tier.copy_beside(position, expert, layer.matrices_of(expert), keep)
            return
        writers = self.tier.begin_upload(position, expert, keep)
        name = f"expert {expert} of layer {self._experts.layers[position].index}"
        self._n_brought += counts
        if _keeps_all(layer) and layer.pool.slot_of[expert] >= 0:
            work = partial(_copy, layer.loading.get(expert), writers, layer.matrices_of(expert))
            self._under_way[position][expert] = _Arriving(self._copier.submit(name, work), counts)
            return
        parts = list(zip(self._experts.slices(position, expert), writers, strict=True))
        self._under_way[position][expert] = _Arriving(self._reader.submit(name, parts, urgent=False), counts)


@dataclass(frozen=True, slots=True)
class _Arriving:
    """An expert on its way; `counts` among those that are brought for later."""

    ticket: ReadTicket
    counts: bool


def _keeps_all(layer: LayerSlots) -> bool:
    """Return whether all experts stay where they are in RAM, in the file's layout, so that they can be copied."""
    return layer.layout.is_plain and layer.pool.n_slots == layer.pool.n_experts


def _copy(loading: Ticket | None, writers: Sequence[Callable[[int], None]], addresses: Sequence[int]) -> None:
    """Write an expert's matrices, once they have been read."""
    if loading is not None:
        loading.wait()
    for write, address in zip(writers, addresses, strict=True):
        write(address)


def _microseconds(costs: Costs) -> dict[str, float]:
    """Return what one expert and one token cost, for people."""
    shown = {
        "cpu_expert": costs.cpu(1),
        "device_call": costs.device_call_s,
        "device_expert": costs.device(1),
        "upload": costs.upload_s_per_expert,
    }
    return {name: round(1e6 * seconds, 1) for name, seconds in shown.items()}
