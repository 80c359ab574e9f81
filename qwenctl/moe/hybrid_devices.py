"""Devices at work beside the CPU: what each layer's step sends there, what is brought there for later, what it costs.

Three things meet here: what the devices hold (DeviceTier), what everything costs (Costs, which follow the measured
times), and the model's files, from which the I/O threads bring experts to a device, behind whatever a step waits for.
The decisions themselves are schedule.py's. Knows nothing of graphs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from qwenctl.errors import ExpertReadFailed
from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.costs import CostCurve, Costs, Measured, updated
from qwenctl.moe.device_executor import Run
from qwenctl.moe.device_pools import DevicePool
from qwenctl.moe.device_tier import DeviceTier
from qwenctl.moe.expert_map import ExpertMap
from qwenctl.moe.expert_reader import ExpertReader
from qwenctl.moe.read_queue import ReadTicket
from qwenctl.moe.schedule import LayerPlan, plan_uploads

# Plans are looked up by costs, so those used for planning follow the measured ones only so often.
_STEPS_A_REFRESH = 512
_LOOKS_EVERY = 4  # steps of a layer between two looks for experts to bring
_MOST_UNDER_WAY = 4  # uploads
# A wait this long says that the device ended last, so that its own time is known.
_WAITED_S = 30e-6
_TOKENS = (1, 4, 16, 64, 256, 1024)
_PROBES, _PROBE_PAIRS = 3, 8
_UNDER_LOAD = 1.25
_SWIGLU = np.array([abi.GGML_GLU_OP["SWIGLU"]] + [0] * 15, dtype=np.int32).tobytes()


@dataclass(frozen=True, slots=True)
class DevicePolicy:
    """What a step may do with devices.

    Attributes:
        costs: to begin with, of every device; None: measured while opening, a few milliseconds a device.
        learns: whether measurements change the costs.
        brings: whether experts are brought to devices for later steps.
        uploads_now: whether a step may bring an expert and compute it there, if that is sooner.
    """

    costs: Costs | None = None
    learns: bool = True
    brings: bool = True
    uploads_now: bool = True


@dataclass(frozen=True, slots=True)
class CpuPart:
    """What the CPU did while the device computed.

    Attributes:
        counts: tokens of each expert; empty: nothing.
        compute_s: its time, without waiting.
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
        self._measured: dict[str, Costs] = {}
        for position in range(len(experts.layers)):
            if tier.pool(position) is not None and tier.label_of(position) not in self._measured:
                costs = self.policy.costs or measured_costs(tier, position)
                self._measured[tier.label_of(position)] = costs
        tier.reset_counts()
        self._planning = dict(self._measured)
        self._under_way: dict[tuple[int, int], ReadTicket] = {}
        self._looks = [0] * len(experts.layers)
        self.n_steps = 0  # in which a device computed
        self.n_shared_steps = 0  # of these: the CPU did too
        self.n_overlapped_steps = 0  # of these: the device was still at it when the CPU had done its part
        self.overlapped_s = 0.0  # the CPU's time in them: both computed throughout
        self.n_uploads_now = 0  # experts that came along with the step that computed them

    def pool(self, position: int) -> DevicePool | None:
        """Return a layer's device slots, None: it has none."""
        return self.tier.pool(position)

    def costs(self, position: int) -> Costs:
        """Return the costs to plan a layer with."""
        return self._planning[self.tier.label_of(position)]

    def note(self, position: int, run: Run, device_counts: Sequence[int], cpu: CpuPart) -> None:
        """Learn from a step.

        Args:
            position: of the layer.
            run: finished.
            device_counts: tokens of each expert of the run.
            cpu: what the CPU did meanwhile.
        """
        waited = run.finished_s - run.waited_from_s >= _WAITED_S
        self.n_steps += 1
        if cpu.counts:
            self.n_shared_steps += 1
            if waited:
                self.n_overlapped_steps += 1
                self.overlapped_s += cpu.compute_s
        if not self.policy.learns:
            return
        label = self.tier.label_of(position)
        costs = self._measured[label]
        device_s = run.finished_s - run.started_s
        if not waited:  # it ended unnoticed, some time before: it took no longer than this
            device_s = min(device_s, costs.device_call_s + costs.device.total(device_counts))
        counts, cpu_s = ((), 0.0) if cpu.waited_for_reads else (cpu.counts, cpu.compute_s)
        self._measured[label] = updated(
            costs,
            Measured(cpu_counts=counts, cpu_s=cpu_s, device_counts=tuple(device_counts), device_s=device_s),
        )
        if self.n_steps % _STEPS_A_REFRESH == 1:
            self._planning = dict(self._measured)

    def bring(self, position: int, plan: LayerPlan, keep: Collection[int]) -> None:
        """Begin to bring what the CPU computed to the device, if that pays back; publish what has arrived.

        Args:
            position: of the layer.
            plan: of the step just done.
            keep: its experts.
        """
        self._looks[position] += 1
        if not self.policy.brings or self._looks[position] % _LOOKS_EVERY:
            return
        self.settle()
        pool = self.tier.pool(position)
        room = _MOST_UNDER_WAY - len(self._under_way)
        if pool is None or room <= 0:
            return
        located = pool.slots.slot_of
        candidates = [(one, pool.uses_of(one)) for one in plan.cpu if located[one] < 0]
        residents = [(e, pool.uses_of(e)) for e, slot in enumerate(pool.slot_of) if slot >= 0 and e not in keep]
        moves = plan_uploads(
            plan, self.costs(position), candidates, residents, n_free=pool.slots.n_free, max_uploads=room
        )
        for expert, _ in moves:
            self._read(position, expert, keep)

    def settle(self, *, wait: bool = False) -> None:
        """Publish experts that have arrived; with `wait`, all that are on their way."""
        for (position, expert), ticket in list(self._under_way.items()):
            if not (ticket.done or wait):
                continue
            if wait:
                with suppress(ExpertReadFailed):  # `error` says so too
                    ticket.wait()
            del self._under_way[position, expert]
            self.tier.end_upload(position, expert, arrived=ticket.error is None)

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
        }

    def close(self) -> None:
        """Free the devices; the reader must be closed."""
        self.settle(wait=True)
        self.tier.close()

    def _read(self, position: int, expert: int, keep: Collection[int]) -> None:
        writers = self.tier.begin_upload(position, expert, keep)
        parts = list(zip(self._experts.slices(position, expert), writers, strict=True))
        name = f"expert {expert} of layer {self._experts.layers[position].index}"
        self._under_way[position, expert] = self._reader.submit(name, parts, urgent=False)


def guessed_costs(expert_bytes: int) -> Costs:
    """Return costs to begin with.

    10 GB/s of weights on the CPU, ten times that on a device, 5 between them, 1 from disk.
    """
    cpu_s, device_s = expert_bytes / 10e9, expert_bytes / 100e9
    cpu = CostCurve(_TOKENS, tuple(cpu_s * max(1.0, n / 4) for n in _TOKENS))
    device = _device_curve(device_s)
    return Costs(cpu, device, 100e-6, 100e-6 + expert_bytes / 1e9, expert_bytes / 5e9, expert_bytes / 4e9)


def measured_costs(tier: DeviceTier, position: int) -> Costs:
    """Return guessed costs with those of a layer's device measured: its call, an expert there, an upload.

    An expert of zeros is sent and computed with, and removed again; the layer's slots must be free.
    """
    pool = tier.pool(position)
    if pool is None:
        raise ValueError(f"layer {position} has no slots on a device")
    tensors = pool.layer.tensors
    zeros = np.zeros(max(one.expert_bytes for one in tensors), dtype=np.uint8)
    x, out = np.zeros(tensors[0].n_in, dtype=np.float32), np.zeros((_PROBE_PAIRS, tensors[-1].n_out), dtype=np.float32)

    def compute_s(n_pairs: int) -> float:
        began = perf_counter()
        slots = [pool.slot_of[0]] * n_pairs
        run = tier.start(position, slots, None, x.ctypes.data, _SWIGLU)
        tier.finish(position, run, out.ctypes.data, range(n_pairs))
        return perf_counter() - began

    def upload_s() -> float:
        began = perf_counter()
        tier.upload(position, 0, [int(zeros.ctypes.data)] * len(tensors))
        return perf_counter() - began + compute_s(1)  # a server says nothing when it has stored what it got

    upload_s()  # the first time graphs are made, pages touched, sizes asked for
    one_s = min(compute_s(1) for _ in range(_PROBES))
    compute_s(_PROBE_PAIRS)
    many_s = min(compute_s(_PROBE_PAIRS) for _ in range(_PROBES))
    pool.remove(0)
    sent_s = max(upload_s() - one_s, 1e-6)
    pool.remove(0)
    expert_s = max((many_s - one_s) / (_PROBE_PAIRS - 1), 1e-6)
    return replace(
        guessed_costs(pool.layer.expert_bytes),
        device=_device_curve(expert_s),
        device_call_s=max(one_s - expert_s, 0.0),
        upload_s_per_expert=sent_s,
        loaded_upload_s_per_expert=sent_s * _UNDER_LOAD,
    )


def _device_curve(expert_s: float) -> CostCurve:
    return CostCurve(_TOKENS, tuple(expert_s * max(1.0, n / 16) for n in _TOKENS))
