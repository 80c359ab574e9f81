"""Main memory from which a device copies by itself: pinned, so that nothing is staged on the way.

    PinnedPages    pages that are ours already (slots of experts in RAM): pinned in place, given back at the end
    HostMemory     a new piece; of ordinary memory where the device's library has no other

From pinned memory a card on PCIe 5 takes 45 to 55 GB/s, from any other 7 to 12 (measured on an H200), and only there a
queued copy leaves this thread free. Knows nothing of what lies in the memory.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_bool, c_size_t, c_void_p
from typing import Any

import numpy as np

from qwenctl.moe.devices import Device, DeviceCalls

_CUDA_SWITCH = "GGML_CUDA_REGISTER_HOST"  # without it ggml-cuda pins nothing that it has not allocated


class PinnedPages:
    """Pages pinned for one device's library. `close` it before their memory is freed.

    Args:
        calls: the library.
        device: which copies from them.
    """

    def __init__(self, calls: DeviceCalls, device: Device) -> None:
        os.environ[_CUDA_SWITCH] = "1"
        self._register = _function(calls, device, b"ggml_backend_register_host_buffer", c_bool, c_void_p, c_size_t)
        self._unregister = _function(calls, device, b"ggml_backend_unregister_host_buffer", None, c_void_p)
        self._pinned: list[int] = []

    @property
    def is_possible(self) -> bool:
        """Whether the device's library can pin at all."""
        return self._register is not None and self._unregister is not None

    def pin(self, address: int, n_bytes: int) -> bool:
        """Pin memory, from any thread; its pages exist from now on. Returns whether that was done."""
        done = self._register is not None and bool(self._register(address, n_bytes))
        if done:
            self._pinned.append(address)
        return done

    def close(self) -> None:
        """Give all pages back."""
        while self._pinned:
            self._unregister(self._pinned.pop())


class HostMemory:
    """A piece of memory that a device copies from and to by itself, if it has such.

    Args:
        calls: the library.
        device: which copies.
        n_bytes: how many.
        pinned: False: ordinary memory in any case.
    """

    def __init__(self, calls: DeviceCalls, device: Device, n_bytes: int, *, pinned: bool = True) -> None:
        self._calls, self.n_bytes = calls, n_bytes
        kind = host_buffer_type(calls, device) if pinned else 0
        self._buffer: int = (kind and calls.ggml_backend_buft_alloc_buffer(kind, n_bytes)) or 0
        self._memory = None if self._buffer else np.zeros(n_bytes, dtype=np.uint8)
        self.address: int = (
            calls.ggml_backend_buffer_get_base(self._buffer) if self._memory is None else int(self._memory.ctypes.data)
        )

    def close(self) -> None:
        """Free it."""
        buffer, self._buffer, self._memory = self._buffer, 0, None
        if buffer:
            self._calls.ggml_backend_buffer_free(buffer)


def host_buffer_type(calls: DeviceCalls, device: Device) -> int:
    """Return the ggml_backend_buffer_type_t of such memory, 0: the device has none."""
    return int(calls.ggml_backend_dev_host_buffer_type(device.handle) or 0)


def _function(calls: DeviceCalls, device: Device, name: bytes, result: Any, *arguments: Any) -> Any:
    registry = calls.ggml.ggml_backend_dev_backend_reg(device.handle)
    address = calls.ggml_backend_reg_get_proc_address(registry, name) if registry else None
    return ctypes.CFUNCTYPE(result, *arguments)(address) if address else None
