"""What computing with a device costs: guessed, measured in milliseconds while opening, and told by each run."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from time import perf_counter

import numpy as np

from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.costs import CostCurve, Costs
from qwenctl.moe.device_executor import Run
from qwenctl.moe.device_tier import DeviceTier
from qwenctl.moe.host_memory import HostMemory

_TOKENS = (1, 4, 16, 64, 256, 1024)
_PROBES, _PROBE_PAIRS = 3, 8
_UNDER_LOAD = 1.25
WAITED_S = 15e-6  # a wait this long says that the device ended last, …
_WAITED_SHARE = 0.1  # … if it is this part of the run: whoever comes late may also just have been held up
_SWIGLU = np.array([abi.GGML_GLU_OP["SWIGLU"]] + [0] * 15, dtype=np.int32).tobytes()


def guessed_costs(expert_bytes: int) -> Costs:
    """Return costs to begin with.

    10 GB/s of weights on the CPU, ten times that on a device, 5 between them, 1 from disk.
    """
    cpu_s, device_s = expert_bytes / 10e9, expert_bytes / 100e9
    cpu = CostCurve(_TOKENS, tuple(cpu_s * max(1.0, n / 4) for n in _TOKENS))
    device = _device_curve(device_s)
    return Costs(cpu, device, 100e-6, 100e-6 + expert_bytes / 1e9, expert_bytes / 5e9, expert_bytes / 4e9)


def measured_costs(tier: DeviceTier, position: int, *, pinned: bool = True) -> Costs:
    """Return guessed costs with those of a layer's device measured: its call, an expert there, an upload.

    An expert of zeros is sent and computed with, and removed again; the layer's slots must be free.

    Args:
        tier: the devices.
        position: of the layer.
        pinned: send from memory that the device copies from by itself, where it has such.
    """
    pool = tier.pool(position)
    if pool is None:
        raise ValueError(f"layer {position} has no slots on a device")
    tensors = pool.layer.tensors
    source = HostMemory(tier.calls, tier.device_at(position), max(one.expert_bytes for one in tensors), pinned=pinned)
    ctypes.memset(source.address, 0, source.n_bytes)
    x, out = np.zeros(tensors[0].n_in, dtype=np.float32), np.zeros((_PROBE_PAIRS, tensors[-1].n_out), dtype=np.float32)

    def compute_s(n_pairs: int) -> float:
        began = perf_counter()
        slots = [pool.slot_of[0]] * n_pairs
        run = tier.start(position, slots, None, x.ctypes.data, _SWIGLU)
        tier.finish(position, run, out.ctypes.data, range(n_pairs))
        return perf_counter() - began

    def upload_s() -> float:
        began = perf_counter()
        tier.upload_queued(position, 0, [source.address] * len(tensors), ())
        compute_s(1)  # only then it is over; a server says nothing when it has stored what it got
        return perf_counter() - began

    upload_s()  # the first time graphs are made, pages touched, sizes asked for
    one_s = min(compute_s(1) for _ in range(_PROBES))
    compute_s(_PROBE_PAIRS)
    many_s = min(compute_s(_PROBE_PAIRS) for _ in range(_PROBES))
    pool.remove(0)
    sent_s = float("inf")
    for _ in range(_PROBES):
        sent_s = max(min(sent_s, upload_s() - one_s), 1e-6)
        pool.remove(0)
    source.close()
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


def device_seconds(run: Run, predicted_s: float) -> float:
    """Return what a run took its device, as far as can be told.

    Args:
        run: finished. The CPU computed between `queued_s` and `waited_from_s`.
        predicted_s: what it should have taken. Where the device ended unnoticed before the wait, it took at most the
            time until then, and the prediction stands if it is below that.
    """
    elapsed_s, wait_s = run.ended_s - run.started_s, run.ended_s - run.waited_from_s
    waited = wait_s >= max(WAITED_S, _WAITED_SHARE * elapsed_s)
    return elapsed_s if waited else min(elapsed_s, predicted_s)
