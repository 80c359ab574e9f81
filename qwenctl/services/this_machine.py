"""This machine as a plan sees it: memory and devices as `run` finds them, and rates as they were measured here.

Measures nothing: what an earlier `run` or `qwenctl doctor MODEL --measure` kept is used, of the same model's experts if
there is any, else of others. Without it the rates are those of a usual processor, and the plan says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quant.ggml_types import GGML_TYPES
from qwenctl.moe.abi_check import UnknownBuild
from qwenctl.moe.calibration import Calibration, load_calibration, stored_calibrations
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.microbatch import PrefillRates
from qwenctl.planning.hardware import (
    CORE_DENSE_MACS_S,
    CORE_MACS_S,
    CORE_READ_BYTES_S,
    CPU_LAYER_S,
    DISKS,
    GB,
    card_of_memory,
    described_card,
)
from qwenctl.planning.machine import CpuRates, GpuRates, Machine
from qwenctl.planning.machine_text import BAND
from qwenctl.planning.model import PlannedModel
from qwenctl.planning.placement import ExpertLayout, LayoutGroups
from qwenctl.planning.plan import Layouts
from qwenctl.services.calibrate import key_of
from qwenctl.services.calibration_key import cpu_name
from qwenctl.services.cpu_threads import default_n_threads
from qwenctl.services.engine_devices import EngineDevices, engine_devices
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.expert_offload import io_threads, open_ggml
from qwenctl.services.memory_limits import machine_memory
from qwenctl.services.native_log import native_log
from qwenctl.services.offload_layout import OffloadLayout, groups_with
from qwenctl.services.rpc_servers import check_endpoints, remote_devices
from qwenctl.settings import Settings

_UNKNOWN_TYPE_BITS = 4.5
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
    near = _nearest(stored, n_threads)
    machine = Machine(
        name="this machine",
        memory=machine_memory((*remote, *devices.memory)),
        gpus=(_REMOTE,) * len(remote) + _gpu_rates(devices),
        cpu=cpu_rates(near, n_threads),
        band=BAND,
        assumptions=(*_assumptions(near), *((_REMOTE_WORDS,) if remote else ())),
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


def cpu_rates(calibration: Calibration | None, n_threads: int) -> CpuRates:
    """Return what the CPU does, by what was measured of it; None: a usual one's rates."""
    if calibration is None:
        curve = tuple((n_tokens, n_threads * rate) for n_tokens, rate in CORE_MACS_S)
        batch = PrefillRates(DISKS["nvme3"] * GB, curve, n_threads * CORE_DENSE_MACS_S)
        return CpuRates(n_threads, n_threads * CORE_READ_BYTES_S, CPU_LAYER_S, batch)
    kind = calibration.experts[0].type
    batch = calibration.prefill_rates(kind, "plain")
    # Rearranged ones were measured in the processor's cache, which may be large; what bounds the others is unpacking.
    plain = [rate for rate in calibration.experts if (rate.n_tokens, rate.layout) == (1, "plain")]
    fastest_of = {rate.type: max(one.macs_s for one in plain if one.type == rate.type) for rate in plain}
    rates = [macs_s * _bytes_a_weight(kind) for kind, macs_s in fastest_of.items()]
    read = min(rates, default=n_threads * CORE_READ_BYTES_S)
    fastest = max((rate.macs_s for rate in calibration.experts if rate.n_tokens >= 128), default=batch.dense_macs_s)
    return CpuRates(n_threads, read, CPU_LAYER_S, replace(batch, dense_macs_s=fastest))


def _bytes_a_weight(kind: str) -> float:
    """Return the mean bytes of a weight of a kind, "Q4_K/Q6_K": two matrices of the first, one of the last."""
    first, _, last = kind.partition("/")
    names = [*(first.split(",") * 2)[:2], last or first.split(",")[-1]]
    bits = [GGML_TYPES[name].bits_per_weight if name in GGML_TYPES else _UNKNOWN_TYPE_BITS for name in names]
    return sum(bits) / len(bits) / 8


def _known_ggml() -> Ggml | None:
    try:
        return open_ggml()
    except UnknownBuild:
        return None


def _nearest(stored: Sequence[Calibration], n_threads: int) -> Calibration | None:
    """Return the last of the same processor and number of threads; None: there is none."""
    same = [one for one in stored if (one.key.cpu, one.key.n_threads) == (cpu_name(), n_threads)]
    return same[-1] if same else None


def _assumptions(calibration: Calibration | None) -> tuple[str, ...]:
    if calibration is None:
        return ("nothing was measured here yet: rates are those of a usual processor and disk",)
    return (f"rates of the processor as measured here with experts of {calibration.key.shape}",)


def _gpu_rates(devices: EngineDevices) -> tuple[GpuRates, ...]:
    cards = [
        described_card(device.description) or card_of_memory(memory.total_bytes)
        for device, memory in zip(devices.devices, devices.memory, strict=True)
    ]
    return tuple(card.rates for card in cards)
