"""The devices that a model may use: found, chosen by name, and handed to llama.cpp in that order.

Without names they are those that llama.cpp would take by itself (llama_prepare_model_devices): remote ones first, then
GPUs, each card once, and integrated GPUs where there is no other. llama.cpp is always told the list, so that what was
planned and what it does cannot differ. Knows nothing of what is placed on them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp

from quant.libggml import load_libggml
from qwenctl.errors import InvalidRequest
from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.devices import Device, DeviceCalls, device_memory, find_devices
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.machine_memory import DeviceMemory

_PROPS_ROOM_BYTES = 1024  # another build's structure may be longer than ours


@dataclass(frozen=True, slots=True)
class EngineDevices:
    """Devices in the order in which llama.cpp gets them. `calls` is None where this build could not be asked."""

    calls: DeviceCalls | None
    devices: tuple[Device, ...]
    memory: tuple[DeviceMemory, ...]

    @property
    def has_gpu(self) -> bool:
        """Whether one is a GPU of this machine, as far as is known."""
        if self.calls is None:
            return bool(llama_cpp.llama_supports_gpu_offload())
        return any(not device.is_remote for device in self.devices)

    def tell(self, params: Any, layer_counts: Sequence[int], n_unloaded: int) -> tuple[object, ...]:
        """Write a plan into llama_model_params.

        Args:
            params: to be changed.
            layer_counts: of each device, the output counted as one, see device_split.py; empty: nothing is on devices.
            n_unloaded: layers for multi-token prediction, between the last layer and the output: llama.cpp loads none
                of them, but counts them.

        Returns:
            What has to live until the model is loaded.
        """
        if self.calls is None:
            return ()
        handles = (ctypes.c_void_p * (len(self.devices) + 1))(*(one.handle for one in self.devices), None)
        params.devices = ctypes.addressof(handles)
        counts = list(layer_counts)
        if any(counts):
            counts[max(index for index, count in enumerate(counts) if count)] += n_unloaded
        params.n_gpu_layers = sum(counts)
        split = (ctypes.c_float * max(1, llama_cpp.llama_max_devices()))(*counts)
        if any(counts):
            params.tensor_split = ctypes.cast(split, ctypes.POINTER(ctypes.c_float))
        return handles, split

    def check_split(self, split: Sequence[float] | None) -> None:
        """Raise unless a split has a number for each device.

        Raises:
            InvalidRequest: it has not.
        """
        if split is not None and len(split) != len(self.devices):
            there = ", ".join(device.label for device in self.devices) or "none"
            raise InvalidRequest(f"a split into {len(split)} parts, but the devices are: {there}", "give each a number")


def engine_devices(names: Sequence[str] | None) -> EngineDevices:
    """Find the devices that a model may use.

    Args:
        names: as ggml prints them, "CUDA0", "RPC1" or "RPC1[host:port]"; () is none at all; None: llama.cpp's choice.

    Raises:
        InvalidRequest: a name is none of them.
    """
    try:
        calls = DeviceCalls(Ggml(load_libggml().path.parent))
    except (AttributeError, OSError):  # another build, without a function that we call
        if names:
            what = "this build of llama.cpp cannot be asked for its devices"
            raise InvalidRequest(what, "leave --devices out") from None
        return EngineDevices(None, (), ())
    found = find_devices(calls)
    devices = _taken_by_llama(calls, found) if names is None else tuple(_named(found, name) for name in names)
    return EngineDevices(calls, devices, tuple(device_memory(calls, one) for one in devices))


def _named(found: Sequence[Device], name: str) -> Device:
    for device in found:
        if name.lower() in (device.name.lower(), device.label.lower()):
            return device
    there = ", ".join(device.label for device in found) or "none that this build of llama.cpp knows"
    raise InvalidRequest(f"no device {name}; there are: {there}", "`qwenctl doctor` lists this machine's")


def _taken_by_llama(calls: DeviceCalls, found: Sequence[Device]) -> tuple[Device, ...]:
    remote = [device for device in found if device.is_remote]
    cards: dict[object, Device] = {}
    for device in found:
        if device.kind == "gpu" and not device.is_remote:
            cards.setdefault(_card_id(calls, device) or device.handle, device)
    shared = [device for device in found if device.kind != "gpu"]
    first = shared[:1]  # llama.cpp takes the others only from the same library; a machine has one, as a rule
    return (*remote, *cards.values(), *(() if cards else first))


def _card_id(calls: DeviceCalls, device: Device) -> bytes | None:
    """Return what names the card itself, whichever library found it: a PCI address; None where it is not told."""
    room = (ctypes.c_uint64 * (_PROPS_ROOM_BYTES // 8))()
    calls.ggml_backend_dev_get_props(device.handle, ctypes.addressof(room))
    address = abi.ggml_backend_dev_props.from_buffer(room).device_id
    return ctypes.string_at(address) if address else None
