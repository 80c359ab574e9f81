"""This machine as a plan sees it: memory and devices as `run` finds them, and rates as they were measured here.

Measures nothing: what an earlier `run` or `qwenctl doctor MODEL --measure` kept is used, of the same model's experts if
there is any, else of others. Without it the rates are those of a usual processor, and the plan says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qwenctl.moe.abi_check import UnknownBuild
from qwenctl.moe.calibration import load_calibration, stored_calibrations
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.planning.hardware import (
    card_of_memory,
    described_card,
)
from qwenctl.planning.machine import GpuRates, Machine
from qwenctl.planning.machine_text import BAND
from qwenctl.planning.model import PlannedModel
from qwenctl.planning.placement import ExpertLayout, LayoutGroups
from qwenctl.planning.plan import Layouts
from qwenctl.services.calibrate import key_of
from qwenctl.services.cpu_threads import default_n_threads
from qwenctl.services.engine_devices import EngineDevices, engine_devices
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.expert_offload import io_threads, open_ggml
from qwenctl.services.measured_cpu import cpu_rates, nearest_calibration, rates_words
from qwenctl.services.memory_limits import machine_memory
from qwenctl.services.native_log import native_log
from qwenctl.services.offload_layout import OffloadLayout, groups_with
from qwenctl.services.rpc_servers import check_endpoints, remote_devices
from qwenctl.settings import Settings

_REMOTE = GpuRates(read_bytes_s=40e9, macs_s=500e9, layer_s=150e-6, upload_bytes_s=1e9)
_REMOTE_WORDS = "workers as quick as a processor with eight cores, over 10 Gbit/s"


@dataclass(frozen=True, slots=True)
class ThisMachine:
    """The machine, and how a model's experts would lie on it."""

    machine: Machine
    layouts: Layouts


def look_at_this_machine(settings: Settings, path: Path | None, rpc: Sequence[str] = ()) -> ThisMachine:
    """Look at memory, devices and what was measured.

    Args:
        settings: of the program.
        path: of the model's file, where it is here: its own rates are looked for.
        rpc: "host:port" of workers whose devices are used, too.

    Raises:
        InvalidRequest: an endpoint is none.
        ModelLoadFailed: a worker does not answer, is busy or of another version.
    """
    check_endpoints(rpc)
    native_log()
    n_threads = settings.n_threads or default_n_threads()
    devices, remote = engine_devices(None), remote_devices(rpc)
    ggml = _known_ggml()
    stored = [one for one in stored_calibrations(settings.cache_dir) if one.experts]
    near = nearest_calibration(stored, n_threads)
    machine = Machine(
        name="this machine",
        memory=machine_memory((*remote, *devices.memory)),
        gpus=(_REMOTE,) * len(remote) + _gpu_rates(devices),
        cpu=cpu_rates(near, n_threads),
        band=BAND,
        assumptions=(*rates_words(near), *((_REMOTE_WORDS,) if remote else ())),
    )
    place = path or settings.models_dir / "model.gguf"

    def layouts(model: PlannedModel) -> LayoutGroups:
        if ggml is None or model.experts is None:
            return ()
        experts = replace(model.experts, paths=(place,))
        own = load_calibration(key_of(experts, n_threads), settings.cache_dir)
        known = own if own is not None and own.experts else near
        has_devices = bool(remote or devices.devices)
        groups = groups_with(ggml, experts, EngineOptions(), n_threads, known, has_devices=has_devices)
        return tuple(tuple(_layout(one) for one in group) for group in groups)

    return ThisMachine(machine, layouts)


def _layout(one: OffloadLayout) -> ExpertLayout:
    return ExpertLayout(one.choice, one.slot_bytes, one.rates, io_threads(one))


def _known_ggml() -> Ggml | None:
    try:
        return open_ggml()
    except UnknownBuild:
        return None


def _gpu_rates(devices: EngineDevices) -> tuple[GpuRates, ...]:
    cards = [
        described_card(device.description) or card_of_memory(memory.total_bytes)
        for device, memory in zip(devices.devices, devices.memory, strict=True)
    ]
    return tuple(card.rates for card in cards)
