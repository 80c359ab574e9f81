"""Whether and how the experts of a model are offloaded: asks, sizes, opens the session, loads the model through it.

    off      stock llama.cpp
    auto     offload when the experts do not all fit, or when our arrangement of their weights is faster than stock's
    on       offload, or say why not

Where the system or the build of llama.cpp cannot do it, `auto` goes on without, with a warning. Decides by values that
qwenctl/moe computes; knows nothing of slots or graphs.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import llama_cpp

from quant.gguf_read import GgufFile
from quant.libggml import load_libggml
from qwenctl.errors import DoesNotFit, InvalidRequest, ModelLoadFailed
from qwenctl.moe.abi_check import UnknownBuild, check_abi
from qwenctl.moe.backend import ExpertDevice
from qwenctl.moe.device_places import places_of
from qwenctl.moe.engine_choice import first_suitable, is_for_stock
from qwenctl.moe.expert_map import ExpertMap, read_expert_map, why_not
from qwenctl.moe.expert_session import ExpertSession, SessionPlan
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.machine_memory import MachineMemory
from qwenctl.moe.model_size import ModelSize, size_of_model
from qwenctl.moe.model_stream import ModelStream, can_stream
from qwenctl.moe.offload_plan import OffloadPlan, OffloadRequest
from qwenctl.moe.sizing import fits_devices, prompt_space, size_offload
from qwenctl.moe.split_stream import stream_pieces
from qwenctl.services.engine_devices import EngineDevices
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.memory_limits import machine_memory
from qwenctl.services.offload_layout import OffloadLayout, layout_groups
from qwenctl.services.routing_memory import RoutingMemory

_N_IO_THREADS, _MOST_IO_THREADS = 4, 8
_LEAST_WAVE_ROWS = 1024
_LOAD_MODE_NONE = 0  # enum llama_load_mode


@dataclass(frozen=True, slots=True)
class ContextSize:
    """What a context will hold, as NativeModel decided."""

    n_cells: int  # of a stream
    n_streams: int
    n_outputs: int
    n_threads: int


@dataclass(slots=True)
class ExpertOffload:
    """An opened session, before and after llama.cpp has loaded the model. Close it after the model is freed.

    Attributes:
        plan: who got what memory.
        session: pools, reader, counters.
    """

    plan: OffloadPlan
    session: ExpertSession
    _experts: ExpertMap
    _gguf: GgufFile
    _memory: RoutingMemory | None = None

    def load(self, params: Any, on_error: str) -> Any:
        """Load the model without its experts; returns the llama_model, None if llama.cpp refused it.

        Raises:
            ModelLoadFailed, OSError: the file could not be read.
        """
        params.tensor_buft_overrides = self.session.overrides_address
        params.load_mode = _LOAD_MODE_NONE
        library = llama_cpp.llama_cpp._lib
        load = library.llama_model_load_from_file_ptr
        load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_void_p, llama_cpp.llama_model_params]
        with ModelStream(self._experts.paths, stream_pieces(self._gguf, self._experts)) as stream:
            model = load(stream.handle, params)
            if isinstance(stream.error, OSError):
                raise ModelLoadFailed(f"{on_error}: {stream.error.strerror}") from stream.error
            if stream.error is not None:
                raise stream.error
        return model

    def stats(self) -> dict[str, Any]:
        """Return placement and counters."""
        reader, devices = self.session.loader.reader, self.session.devices
        return {
            "placement": self.plan.as_json(),
            "operation": "expert" if self.session.decode_per_expert else "id",
            "batch_operation": "expert" if self.session.batch_per_expert else "id",
            **self.session.counters(),
            "prefetch": self.session.prefetcher.gate.state if self.session.prefetcher else "off",
            "devices": devices.as_json() if devices is not None else None,
            "bytes_read": reader.bytes_read,
            "n_reads": reader.n_reads,
            "read_s": reader.busy_s,
        }

    def close(self) -> None:
        """Stop reading, free the slots, and remember the routing."""
        if self._memory:
            self._memory.keep()
        self.session.close()


def open_offload(  # noqa: PLR0917 - what was decided so far
    gguf: GgufFile,
    options: EngineOptions,
    devices: EngineDevices,
    context: ContextSize,
    abort: tuple[int, int],
    warnings: list[str],
) -> ExpertOffload | None:
    """Return an opened session, or None: the model is for stock llama.cpp.

    Args:
        gguf: the model's header.
        options: of the engine.
        devices: that may be used.
        context: what the context will hold.
        abort: addresses of a C function and its data that say whether to break off.
        warnings: gets a line where `auto` could not do what it should.

    Raises:
        DoesNotFit: not even the smallest number of experts fits beside the rest.
        InvalidRequest: `on` was asked for and cannot be; the message says why.
        ExpertReadFailed: the file cannot be read.
    """
    mode = options.offload.mode
    if mode == "off":
        return None
    experts = read_expert_map(gguf)
    obstacle = _obstacle(gguf, experts)
    ggml: Ggml | None = None
    if obstacle is None:
        try:
            ggml = open_ggml()
        except UnknownBuild as error:
            obstacle = str(error)
    if obstacle is not None or experts is None or ggml is None:
        if mode == "on":
            raise InvalidRequest(f"--offload on: {obstacle}", "leave --offload out")
        if experts is not None:
            warnings.append(f"experts are not offloaded: {obstacle}")
        return None
    return _open(gguf, experts, ggml, options, devices, context, abort)


def open_ggml() -> Ggml:
    """Return ggml's functions, checked to be of the build that we know.

    Raises:
        UnknownBuild: another one.
    """
    path = load_libggml().path
    check_abi(ctypes.CDLL(str(path)))
    return Ggml(path.parent)


def _obstacle(gguf: GgufFile, experts: ExpertMap | None) -> str | None:
    """Return why this model cannot be offloaded here, None if it can."""
    if experts is None:
        return why_not(gguf) or "the model has no experts"
    if ExpertDevice.is_taken():
        return "another model with offloaded experts is open in this process"
    if not can_stream():
        return "this system's C library has no fopencookie"
    return None


def _open(  # noqa: PLR0917 - what was decided so far
    gguf: GgufFile,
    experts: ExpertMap,
    ggml: Ggml,
    options: EngineOptions,
    devices: EngineDevices,
    context: ContextSize,
    abort: tuple[int, int],
) -> ExpertOffload | None:
    wanted = options.offload
    decided = decide(gguf, experts, ggml, options, machine_memory(devices.memory), context)
    if decided is None:
        return None
    plan, chosen = decided.plan, decided.layout
    has_slots = any(budget.n_slots for budget in plan.devices.budgets)
    session = ExpertSession(
        ggml,
        experts,
        SessionPlan(
            n_slots=plan.n_slots,
            ring_slots=plan.ring_slots,
            layout=chosen.choice.layout,
            decode_per_expert=chosen.choice.decode_per_expert or has_slots,  # what devices are quickest beside
            batch_per_expert=chosen.choice.batch_per_expert,
            n_threads=context.n_threads,
            n_io_threads=decided.n_io_threads,
            wave_rows=max(plan.n_ubatch, _LEAST_WAVE_ROWS),
        ),
        abort=abort,
        devices=places_of(
            devices.devices,
            experts.layers,
            plan.devices,
            prompt_space(decided.model, plan.n_ubatch) if has_slots else None,
        ),
    )
    memory = RoutingMemory(gguf, session, wanted.calibration_dir) if wanted.calibration_dir else None
    try:
        session.fill()
        session.look_ahead(gguf, wanted.prefetch)
        if memory:
            memory.start()
    except BaseException:
        session.close()
        raise
    return ExpertOffload(plan, session, experts, gguf, memory)


@dataclass(frozen=True, slots=True)
class Decision:
    """How a model's experts are to be offloaded."""

    layout: OffloadLayout
    model: ModelSize
    plan: OffloadPlan
    n_io_threads: int


def decide(  # noqa: PLR0917 - all that it depends on
    gguf: GgufFile,
    experts: ExpertMap,
    ggml: Ggml,
    options: EngineOptions,
    machine: MachineMemory,
    context: ContextSize,
) -> Decision | None:
    """Return layout and sizes; None: the model is for stock llama.cpp.

    Raises:
        DoesNotFit: see `open_offload`.
    """

    def sized(chosen: OffloadLayout) -> Decision:
        model = size_of_model(gguf, experts, chosen.slot_bytes)
        return Decision(chosen, model, *_sized(model, machine, options, context, chosen))

    groups = layout_groups(ggml, experts, options, context.n_threads, has_devices=bool(machine.devices))
    chosen, found = first_suitable(groups, sized, lambda one: one.plan)
    if options.offload.mode == "auto":
        request = _request(options, context, chosen, found.n_io_threads)
        if fits_devices(found.model, machine, request) or is_for_stock(found.plan, found.model, chosen.choice):
            return None
    return found


def _sized(
    model: ModelSize, machine: MachineMemory, options: EngineOptions, context: ContextSize, chosen: OffloadLayout
) -> tuple[OffloadPlan, int]:
    """Return the plan and its number of reading threads: what the disk is quickest with, fewer where memory is short.

    Raises:
        DoesNotFit: see `open_offload`.
    """
    asked = options.offload.n_io_threads
    measured = io_threads(chosen)
    try:
        n_io_threads = asked or measured
        return size_offload(model, machine, _request(options, context, chosen, n_io_threads)), n_io_threads
    except DoesNotFit:
        if asked or measured == _N_IO_THREADS:
            raise
    return size_offload(model, machine, _request(options, context, chosen, _N_IO_THREADS)), _N_IO_THREADS


def io_threads(layout: OffloadLayout) -> int:
    """Return how many threads read, where memory is not short."""
    return min(_MOST_IO_THREADS, max(_N_IO_THREADS, layout.n_io_threads or 0))


def _request(options: EngineOptions, context: ContextSize, chosen: OffloadLayout, n_io_threads: int) -> OffloadRequest:
    wanted = options.offload
    return OffloadRequest(
        n_cells=context.n_cells,
        n_streams=context.n_streams,
        n_outputs=context.n_outputs,
        type_k=options.cache_type_k,
        type_v=options.cache_type_v,
        flash_attention=options.flash_attention,
        n_batch=options.n_batch,
        n_ubatch=options.n_ubatch,
        ram_bytes=wanted.ram_bytes,
        vram_bytes=wanted.vram_bytes,
        n_gpu_layers=options.n_gpu_layers,
        split=options.split,
        n_slots=wanted.n_slots,
        n_io_threads=n_io_threads,
        reserved_bytes=wanted.reserved_bytes,
        layout=chosen.choice.layout,
        rates=chosen.rates,
    )
