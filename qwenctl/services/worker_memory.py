"""What a worker's devices report as their memory: less than they have, where a budget says so.

ggml's server answers clients with what the device's own function says; for a CPU that is all of the machine, taken or
not. So the function is replaced in the device's table, in this process alone, on a build whose layout is known. ggml
has no other way to bound a server, and it does not refuse an allocation beyond what it reported: the budget binds
clients that plan by it, as llama.cpp and this program do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.devices import DeviceCalls
from qwenctl.services.memory_limits import machine_memory


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes of a device; `taken` by this process, counted from anywhere: only differences mean something."""

    free: int
    total: int
    taken: int


def within_budget(now: Room, at_start: Room, budget_bytes: int | None) -> Room:
    """Return what to report: the room there is, but of a budget no more than what is left of it.

    Args:
        now: as the device has it.
        at_start: the same before any client came.
        budget_bytes: for clients; None: all.
    """
    if budget_bytes is None:
        return now
    left = budget_bytes - max(0, now.taken - at_start.taken)
    return Room(max(0, min(now.free, left)), min(now.total, budget_bytes), now.taken)


def shares(rooms: Sequence[Room], budget_bytes: int | None) -> list[int | None]:
    """Return each device's part of a budget, in proportion to what is free; None without a budget."""
    total = sum(room.free for room in rooms)
    return [None if budget_bytes is None else budget_bytes * room.free // max(1, total) for room in rooms]


class ReportedMemory:
    """Devices that report what is left of a budget. Keep it as long as the server runs.

    Args:
        calls: the library, of the known build.
        handles: of the devices.
        budget_bytes: of all together; None: what they have, of a CPU what this process may take.
    """

    def __init__(self, calls: DeviceCalls, handles: Sequence[int], budget_bytes: int | None) -> None:
        self._callbacks: list[object] = []
        asks = [self._ask_of(calls, handle) for handle in handles]
        starts = [ask() for ask in asks]
        for handle, ask, start, budget in zip(handles, asks, starts, shares(starts, budget_bytes), strict=True):
            self._replace(handle, ask, start, budget)

    def _ask_of(self, calls: DeviceCalls, handle: int) -> Callable[[], Room]:
        if calls.ggml_backend_dev_type(handle) == abi.GGML_BACKEND_DEVICE_TYPE_CPU:
            return _main_memory
        interface = abi.ggml_backend_device.from_address(handle).iface
        address = ctypes.cast(interface.get_memory, ctypes.c_void_p).value or 0
        original = abi.ggml_backend_device_i_get_memory(address)

        def ask() -> Room:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            original(handle, ctypes.addressof(free), ctypes.addressof(total))
            return Room(free.value, total.value, total.value - free.value)

        return ask

    def _replace(self, handle: int, ask: Callable[[], Room], start: Room, budget: int | None) -> None:
        def get_memory(_device: int, free: int, total: int) -> None:
            try:
                room = within_budget(ask(), start, budget)
            except Exception:  # nothing may be raised into ggml
                room = Room(0, 0, 0)
            ctypes.c_size_t.from_address(free).value = room.free
            ctypes.c_size_t.from_address(total).value = room.total

        callback = abi.ggml_backend_device_i_get_memory(get_memory)
        self._callbacks.append(callback)
        abi.ggml_backend_device.from_address(handle).iface.get_memory = callback


def _main_memory() -> Room:
    memory = machine_memory()
    return Room(memory.available_bytes, memory.limit_bytes, memory.used_bytes)
