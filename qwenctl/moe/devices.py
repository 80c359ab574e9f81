"""The devices that can hold and compute experts: every ggml device of type GPU, whatever library it comes from.

    CUDA0, Vulkan0, Metal, ROCm0 …        found by ggml when it was loaded
    RPC0, RPC1 … (description HOST:PORT)  another machine's, after `add_rpc_server`

Queueing work on a device keeps Python's lock (PyDLL: these calls return at once), waiting for it and moving weights
release it (CDLL). RPC devices queue too: each server's connection has a thread of ggml's that sends and receives, so
nothing here blocks until the wait. If a server dies or answers nonsense, ggml aborts this process (RPC_STATUS_ASSERT in
ggml-rpc.cpp), at once, from that thread: an engine that uses RPC devices belongs into a process of its own.

Signatures: ggml-backend.h and ggml-rpc.h of the pinned release. Knows nothing of experts.
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_uint8, c_void_p
from dataclasses import dataclass
from typing import Any

from qwenctl.errors import ModelLoadFailed
from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.ggml_calls import Ggml, bind_table
from qwenctl.moe.machine_memory import DeviceMemory

_KINDS = {abi.GGML_BACKEND_DEVICE_TYPE_GPU: "gpu", abi.GGML_BACKEND_DEVICE_TYPE_IGPU: "integrated gpu"}

_QUEUES = (
    ("ggml_backend_tensor_set_async", None, (c_void_p, c_void_p, c_void_p, c_size_t, c_size_t)),
    ("ggml_backend_tensor_get_async", None, (c_void_p, c_void_p, c_void_p, c_size_t, c_size_t)),
    ("ggml_backend_graph_compute_async", c_int, (c_void_p, c_void_p)),
    ("ggml_backend_event_new", c_void_p, (c_void_p,)),
    ("ggml_backend_event_record", None, (c_void_p, c_void_p)),
    ("ggml_backend_event_wait", None, (c_void_p, c_void_p)),
    ("ggml_backend_event_free", None, (c_void_p,)),
    ("ggml_build_forward_expand", None, (c_void_p, c_void_p)),
    ("ggml_view_3d", c_void_p, (c_void_p, c_void_p, c_int64, c_int64, c_int64, c_size_t, c_size_t, c_size_t)),
    ("ggml_backend_view_init", c_int, (c_void_p,)),
    ("ggml_backend_buft_get_alignment", c_size_t, (c_void_p,)),
    ("ggml_backend_buft_get_max_size", c_size_t, (c_void_p,)),
    ("ggml_backend_buffer_get_base", c_void_p, (c_void_p,)),
    ("ggml_backend_dev_buffer_type", c_void_p, (c_void_p,)),
    ("ggml_backend_dev_host_buffer_type", c_void_p, (c_void_p,)),
    ("ggml_backend_dev_name", c_char_p, (c_void_p,)),
    ("ggml_backend_dev_description", c_char_p, (c_void_p,)),
    ("ggml_backend_dev_type", c_int, (c_void_p,)),
    ("ggml_backend_reg_get_proc_address", c_void_p, (c_void_p, c_char_p)),
    ("ggml_backend_reg_dev_count", c_size_t, (c_void_p,)),
    ("ggml_backend_reg_dev_get", c_void_p, (c_void_p, c_size_t)),
)
_WAITS = (
    ("ggml_backend_synchronize", None, (c_void_p,)),
    ("ggml_backend_tensor_set", None, (c_void_p, c_void_p, c_size_t, c_size_t)),
    ("ggml_backend_dev_memory", None, (c_void_p, c_void_p, c_void_p)),
    ("ggml_backend_dev_get_props", None, (c_void_p, c_void_p)),
    ("ggml_backend_dev_init", c_void_p, (c_void_p, c_char_p)),
    ("ggml_backend_buft_alloc_buffer", c_void_p, (c_void_p, c_size_t)),
    ("ggml_backend_buft_get_alloc_size", c_size_t, (c_void_p, c_void_p)),
    ("ggml_backend_tensor_alloc", c_int, (c_void_p, c_void_p, c_void_p)),
    ("ggml_backend_buffer_clear", None, (c_void_p, c_uint8)),
    ("ggml_backend_buffer_free", None, (c_void_p,)),
    ("ggml_backend_free", None, (c_void_p,)),
)
_REGISTRY = (
    ("ggml_backend_register", None, (c_void_p,)),
    ("ggml_backend_reg_by_name", c_void_p, (c_char_p,)),
    ("ggml_backend_dev_count", c_size_t, ()),
    ("ggml_backend_dev_get", c_void_p, (c_size_t,)),
)


class DeviceCalls:
    """ggml's functions for devices, as attributes of their own names.

    Args:
        ggml: the library as the expert backend has it; kept as `ggml`.
    """

    def __init__(self, ggml: Ggml) -> None:
        self.ggml = ggml
        bind_table(self, ctypes.PyDLL(str(ggml.base_path)), _QUEUES)
        bind_table(self, ctypes.CDLL(str(ggml.base_path)), _WAITS)
        bind_table(self, ctypes.CDLL(str(ggml.registry_path)), _REGISTRY)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@dataclass(frozen=True, slots=True)
class Device:
    """One device.

    Attributes:
        handle: its ggml_backend_dev_t.
        name: ggml's name: "CUDA0", "RPC0".
        description: what it is; of an RPC device "host:port".
        kind: "gpu" or "integrated gpu".
    """

    handle: int
    name: str
    description: str
    kind: str

    @property
    def is_remote(self) -> bool:
        """Whether it is another machine's."""
        return self.name.startswith("RPC")

    @property
    def label(self) -> str:
        """The name that people see: an RPC device says where it is."""
        return f"{self.name}[{self.description}]" if self.is_remote else self.name


def find_devices(calls: DeviceCalls) -> tuple[Device, ...]:
    """Return the devices that ggml knows and that can hold experts, in ggml's order."""
    handles = [calls.ggml_backend_dev_get(index) for index in range(calls.ggml_backend_dev_count())]
    return tuple(device for handle in handles if (device := _described(calls, handle)) is not None)


def device_memory(calls: DeviceCalls, device: Device) -> DeviceMemory:
    """Ask a device for its memory, free and in all. An RPC device on a CPU has its machine's main memory."""
    free, total = c_size_t(), c_size_t()
    calls.ggml_backend_dev_memory(device.handle, ctypes.addressof(free), ctypes.addressof(total))
    return DeviceMemory(device.label, free.value, total.value)


def add_rpc_server(calls: DeviceCalls, endpoint: str, *, register: bool = True) -> tuple[Device, ...]:
    """Connect to a server, once a process, and return its devices.

    ggml aborts this process if nobody answers there, and waits for ever if the server is busy with another client:
    greet it first.

    Args:
        calls: the library.
        endpoint: "host:port".
        register: make them known to llama.cpp too, and to `find_devices`, for as long as this process lives: each
            model that it loads from then on asks them for their memory, and aborts the process if they are gone.

    Returns:
        The server's devices.

    Raises:
        ModelLoadFailed: this build has no RPC, or the server offers no device.
    """
    known = calls.ggml_backend_reg_by_name(b"RPC")
    address = calls.ggml_backend_reg_get_proc_address(known, b"ggml_backend_rpc_add_server") if known else None
    if not address:
        raise ModelLoadFailed(
            "this build of llama.cpp knows no RPC devices", "build it with: CMAKE_ARGS=-DGGML_RPC=ON make setup"
        )
    server = ctypes.CFUNCTYPE(c_void_p, c_char_p)(address)(endpoint.encode("ascii"))
    if not server:
        raise ModelLoadFailed(f"the RPC server {endpoint} offers no devices")
    handles = [calls.ggml_backend_reg_dev_get(server, n) for n in range(calls.ggml_backend_reg_dev_count(server))]
    if register and not {device.handle for device in find_devices(calls)}.issuperset(handles):
        calls.ggml_backend_register(server)
    return tuple(device for handle in handles if (device := _described(calls, handle)) is not None)


def _described(calls: DeviceCalls, handle: int) -> Device | None:
    kind = _KINDS.get(calls.ggml_backend_dev_type(handle))
    if kind is None:
        return None
    name = calls.ggml_backend_dev_name(handle).decode("utf-8", "replace")
    return Device(handle, name, calls.ggml_backend_dev_description(handle).decode("utf-8", "replace"), kind)
