"""How a model's experts are to lie in their slots and be multiplied here: what was asked for, else what is fastest.

Measures this machine on the way if it is the first time and there is a folder to keep the rates in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

from qwenctl.errors import InvalidRequest
from qwenctl.moe.calibration import Calibration
from qwenctl.moe.expert_map import ExpertMap
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.layout_choice import PROMPT_TOKENS, LayoutChoice, choose, prefill_rates
from qwenctl.moe.measure_experts import shape_of
from qwenctl.moe.prefill_rates import PrefillRates
from qwenctl.moe.slot_layout import LayoutMaker
from qwenctl.services.calibrate import calibrated
from qwenctl.services.engine_options import EngineOptions
from qwenctl.units import MIB

_WORTH_BYTES = 512 * MIB  # of experts: below, measuring takes longer than it saves


@dataclass(frozen=True, slots=True)
class OffloadLayout:
    """What was decided.

    Attributes:
        choice: layout, operations, and the estimated gain over stock llama.cpp.
        slot_bytes: of one expert of each layer, in the order of the expert map.
        rates: what this machine computes and reads in a second, for sizing.
        n_io_threads: the shortest queue of reads that the disk needs; None: not measured.
        is_measured: whether all this stands on this machine's own rates.
    """

    choice: LayoutChoice
    slot_bytes: tuple[int, ...]
    rates: PrefillRates
    n_io_threads: int | None
    is_measured: bool


def layout_groups(
    ggml: Ggml, experts: ExpertMap, options: EngineOptions, n_threads: int, *, has_devices: bool
) -> Iterator[Iterator[OffloadLayout]]:
    """Decide, measuring first where nothing is known: what `engine_choice.first_suitable` chooses from.

    Args:
        ggml: the library.
        experts: the model's.
        options: of the engine. Where rearranging is off (`repack`), slots hold the file's bytes.
        n_threads: that compute.
        has_devices: whether there are any that could take experts.

    Raises:
        InvalidRequest: what was asked for does not exist on this CPU, or not for this model.
        ExpertReadFailed: the model's file cannot be read.
    """
    folder, small = options.offload.calibration_dir, experts.expert_bytes < _WORTH_BYTES
    calibration = None if folder is None or small else calibrated(experts, ggml, folder, n_threads)
    return groups_with(ggml, experts, options, n_threads, calibration, has_devices=has_devices)


def groups_with(
    ggml: Ggml,
    experts: ExpertMap,
    options: EngineOptions,
    n_threads: int,
    calibration: Calibration | None,
    *,
    has_devices: bool,
) -> Iterator[Iterator[OffloadLayout]]:
    """Decide by rates that are known, or None.

    Yields groups of two: what suits all experts in memory, then what some on the disk. Where devices of this machine
    take experts, the file's own layout is best: only from there can they be copied, for prompts all of them.
    """
    tried = [replace(options, repack=False)] if has_devices and options.offload.layout == "auto" else []
    for asked in (*tried, options):
        yield (_layout(ggml, experts, asked, n_threads, calibration, resident=resident) for resident in (True, False))


def _layout(
    ggml: Ggml,
    experts: ExpertMap,
    options: EngineOptions,
    n_threads: int,
    calibration: Calibration | None,
    *,
    resident: bool,
) -> OffloadLayout:
    wanted = options.offload
    with closing(LayoutMaker(ggml)) as maker:
        available = maker.available() if options.repack else ("plain",)
        layouts = available if wanted.layout == "auto" else (wanted.layout,)
        # AMX tiles know one operation, whatever is asked for.
        free = wanted.operation == "auto" or wanted.layout == "amx"
        operations = ("id", "expert") if free else (wanted.operation,)
        shape = shape_of(experts, maker)
        n_ubatch = options.n_ubatch or PROMPT_TOKENS
        choice = choose(
            calibration, shape, layouts=layouts, operations=operations, n_ubatch=n_ubatch, resident=resident
        )
        if choice is None:
            named = f"layout {wanted.layout!r} with operation {wanted.operation!r}"
            hint = f"layouts here: {', '.join(maker.available())}"
            raise InvalidRequest(f"this CPU, build or model has no {named}", hint)
        slot_bytes = tuple(maker.layout(layer, choice.layout).slot_bytes for layer in experts.layers)
    disk = calibration.fastest_disk() if calibration else None
    return OffloadLayout(
        choice,
        slot_bytes,
        prefill_rates(calibration, shape, choice.layout, n_threads),
        disk.queue_depth if disk else None,
        calibration is not None and bool(calibration.experts),
    )
