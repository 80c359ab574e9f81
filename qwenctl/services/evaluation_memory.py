"""What memory an evaluation may take: asks the system and ggml's devices. Decides nothing (evaluation_plan.py)."""

from __future__ import annotations

from qwenctl.moe.abi_check import UnknownBuild
from qwenctl.moe.devices import DeviceCalls, device_memory, find_devices
from qwenctl.services.evaluation_plan import Memory
from qwenctl.services.expert_offload import open_ggml
from qwenctl.services.memory_limits import machine_memory


def evaluation_memory(ram_bytes: int | None, vram_bytes: int | None) -> Memory:
    """Return what there is, or what was allowed of it.

    Args:
        ram_bytes: that this process may hold in all; None: what is available.
        vram_bytes: of all GPUs together; None: what is free. Without a GPU it means nothing.
    """
    budget = machine_memory().budget_bytes if ram_bytes is None else ram_bytes
    free = _free_device_bytes()
    if free is None:
        return Memory(budget)
    return Memory(budget, free if vram_bytes is None else min(free, vram_bytes))


def _free_device_bytes() -> int | None:
    """Return what GPUs have free, None where there are none, or in a build whose devices are not known to us."""
    try:
        calls = DeviceCalls(open_ggml())
    except UnknownBuild:
        return None
    devices = find_devices(calls)
    return sum(device_memory(calls, one).free_bytes for one in devices) if devices else None
