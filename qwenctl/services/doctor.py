"""What of this machine and this installation matters for running models, and what is wrong with it, each with its fix.

Looks; measures on request, except for a short look at the disk. Changes nothing but the stored calibration. Knows
nothing of how it is shown.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import llama_cpp

from quant.errors import QuantError
from quant.gguf_read import read_gguf
from quant.libggml import load_libggml
from qwenctl import __version__
from qwenctl.errors import QwenctlError
from qwenctl.moe.abi_check import UnknownBuild
from qwenctl.moe.calibration import Calibration, stored_calibrations
from qwenctl.moe.disk_speed import DiskSpeed, measure_disk
from qwenctl.moe.expert_map import read_expert_map
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.layout_choice import LayoutChoice, choose
from qwenctl.moe.machine_memory import DeviceMemory, MachineMemory
from qwenctl.moe.measure_experts import shape_of
from qwenctl.moe.slot_layout import LayoutMaker
from qwenctl.services.calibrate import calibrated
from qwenctl.services.calibration_key import cpu_name
from qwenctl.services.cpu_threads import cpu_quota, default_n_threads
from qwenctl.services.driver_versions import driver_versions
from qwenctl.services.expert_offload import open_ggml
from qwenctl.services.layout_trial import LayoutTrial, try_layouts
from qwenctl.services.machine_devices import machine_devices
from qwenctl.services.machine_limits import usable_cores
from qwenctl.services.memory_limits import machine_memory
from qwenctl.services.models_disk import DiskLook, look_at_disk
from qwenctl.services.native_log import native_log
from qwenctl.settings import Settings
from qwenctl.units import MIB, format_memory

_SLICE_BYTES = MIB  # of reads from a model without experts
_REBUILD = "`make setup` builds llama.cpp for this machine again"
_LEAST_DEVICE_BYTES = 256 * MIB
_HIDE_DEVICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")
_USEFUL_FEATURES = {
    *("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "sve"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong, and what to do about it."""

    what: str
    fix: str


@dataclass(frozen=True, slots=True)
class Cpu:
    """The processor. `features`: those that llama.cpp has code for; `quota`: CPUs' worth of time, None: no limit."""

    name: str
    architecture: str
    features: tuple[str, ...]
    n_usable: int
    quota: float | None
    n_threads: int  # used by default


@dataclass(frozen=True, slots=True)
class Library:
    """The built llama.cpp. `unknown`: why experts are not offloaded with this build, None: they are."""

    release: str
    version: str
    commit: str
    features: tuple[str, ...]
    unknown: str | None
    layouts: tuple[LayoutTrial, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured just now on a model's file."""

    path: Path
    disk: DiskSpeed
    calibration: Calibration | None  # None: the model has no experts, or they cannot be offloaded
    choice: LayoutChoice | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All of it."""

    version: str
    python: str
    system: str
    cpu: Cpu
    library: Library
    memory: MachineMemory
    devices: tuple[DeviceMemory, ...]
    drivers: tuple[str, ...]
    disk: DiskLook | None  # None: no model there to read from
    calibrations: tuple[Calibration, ...]
    measured: Measured | None
    settings: Settings
    problems: tuple[Problem, ...]


def diagnose(
    settings: Settings, model: Path | None = None, rpc: Sequence[str] = (), root: Path = Path("/")
) -> Diagnosis:
    """Look at this machine.

    Args:
        settings: of the program.
        model: measure on this GGUF file; None: have no more than a short look at the disk.
        rpc: "host:port" of RPC servers whose devices are listed too.
        root: where /proc and /sys are looked for.

    Raises:
        NativeLibraryError: there is no llama.cpp to be looked at.
        QwenctlError: the model cannot be read, or a server does not answer.
    """
    native_log()  # or ggml tells on standard error what it does
    cpu = _cpu(root)
    ggml, unknown = _ggml()
    library = _library(unknown, try_layouts())
    n_threads = settings.n_threads or cpu.n_threads
    measured = None if model is None else _measure(model, ggml, settings, n_threads)
    devices, drivers = machine_devices(rpc), driver_versions(root)
    memory = machine_memory(devices, root)
    disk = look_at_disk(settings.models_dir)
    problems = (
        *_cpu_problems(cpu, library, settings),
        *_library_problems(library),
        *_memory_problems(memory),
        *_device_problems(devices, drivers, settings),
        *_disk_problems(disk),
        *_cache_problems(settings),
        *_measured_problems(measured),
    )
    return Diagnosis(
        __version__,
        platform.python_version(),
        f"{platform.system()} {platform.release()}",
        cpu,
        library,
        memory,
        devices,
        drivers,
        disk,
        stored_calibrations(settings.cache_dir),
        measured,
        settings,
        problems,
    )


def _cpu(root: Path) -> Cpu:
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    features = sorted(_USEFUL_FEATURES & set(found.group(1).split() if found else ()))
    return Cpu(
        cpu_name(root), platform.machine(), tuple(features), usable_cores(), cpu_quota(root), default_n_threads(root)
    )


def _ggml() -> tuple[Ggml | None, str | None]:
    """Return the library's functions, or why it is not known."""
    try:
        return open_ggml(), None
    except UnknownBuild as error:
        return None, str(error)


def _library(unknown: str | None, layouts: tuple[LayoutTrial, ...]) -> Library:
    loaded = load_libggml()
    said = llama_cpp.llama_print_system_info().decode("ascii", "replace")
    features = re.findall(r"(\w+) = 1", said)
    return Library(llama_cpp.__version__, loaded.version, loaded.commit, tuple(features), unknown, layouts)


def _measure(path: Path, ggml: Ggml | None, settings: Settings, n_threads: int) -> Measured:
    try:
        experts = read_expert_map(read_gguf(path))
    except QuantError as error:
        raise QwenctlError(error.message, error.hint) from error
    if experts is None or ggml is None:
        size = path.stat().st_size
        return Measured(path, measure_disk(path, slice_bytes=min(size, _SLICE_BYTES)), None, None)
    slice_bytes = max(tensor.expert_bytes for layer in experts.layers for tensor in layer.tensors)
    calibration = calibrated(experts, ggml, settings.cache_dir, n_threads, again=True)
    with closing(LayoutMaker(ggml)) as maker:
        choice = choose(calibration, shape_of(experts, maker)) if calibration.experts else None
    return Measured(path, measure_disk(path, slice_bytes=slice_bytes, budget_s=1.0), calibration, choice)


def _cpu_problems(cpu: Cpu, library: Library, settings: Settings) -> list[Problem]:
    found: list[Problem] = []
    if "amx_int8" in cpu.features and "AMX_INT8" not in library.features:
        found.append(Problem("this CPU multiplies matrices with AMX, and the built llama.cpp does not", _REBUILD))
    if "avx2" in cpu.features and "AVX2" not in library.features:
        found.append(Problem("the built llama.cpp uses no AVX2, which this CPU has", _REBUILD))
    if settings.n_threads is not None and settings.n_threads > cpu.n_threads:
        what = f"{settings.n_threads} threads are asked for, and {cpu.n_threads} can run at once"
        found.append(Problem(what, f"set QWENCTL_THREADS to {cpu.n_threads}, or leave it out"))
    return found


def _library_problems(library: Library) -> list[Problem]:
    found = [
        Problem(f"llama.cpp's {one.name} layout of weights {one.problem}", _REBUILD)
        for one in library.layouts
        if one.problem and one.problem != "not tried"
    ]
    if library.unknown is not None:
        found.append(Problem(f"experts are not offloaded: {library.unknown}", _REBUILD))
    return found


def _memory_problems(memory: MachineMemory) -> list[Problem]:
    if memory.available_bytes >= 256 * MIB:
        return []
    what = f"{format_memory(memory.available_bytes)} of memory are left; the bound is {memory.bound_by}"
    return [Problem(what, "end other programs, or give this one more")]


def _device_problems(devices: Sequence[DeviceMemory], drivers: Sequence[str], settings: Settings) -> list[Problem]:
    found = [
        Problem(f"{one.name} has {format_memory(one.free_bytes)} of memory left", "end the programs that use it")
        for one in devices
        if one.free_bytes < _LEAST_DEVICE_BYTES
    ]
    if drivers and all(one.name.startswith("RPC") for one in devices):
        hidden = [name for name in _HIDE_DEVICES if name in settings.variables]
        what = f"the driver {', '.join(drivers)} is loaded, and llama.cpp sees no GPU"
        fix = f"unset {hidden[0]}" if hidden else "build it for the GPU, for one: CMAKE_ARGS=-DGGML_CUDA=ON make setup"
        found.append(Problem(what, fix))
    return found


def _disk_problems(disk: DiskLook | None) -> list[Problem]:
    return [] if disk is None or disk.past_cache else [_read_through_cache(disk.path)]


def _read_through_cache(path: Path) -> Problem:
    what = f"{path} lies where files cannot be read past the page cache"
    return Problem(what, "keep models that do not fit in memory on a local disk")


def _cache_problems(settings: Settings) -> list[Problem]:
    folder = settings.cache_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return []
    what = f"nothing can be kept in {settings.cache_dir}, so each start measures this machine again"
    return [Problem(what, "set XDG_CACHE_HOME to a folder that can be written")]


def _measured_problems(measured: Measured | None) -> list[Problem]:
    found: list[Problem] = []
    if measured is not None and not measured.disk.past_cache:
        found.append(_read_through_cache(measured.path))
    if measured is not None and measured.calibration is not None and not measured.calibration.experts:
        what = "other programs use this machine so much that it could not be measured"
        found.append(Problem(what, "try again when it is quiet"))
    return found
