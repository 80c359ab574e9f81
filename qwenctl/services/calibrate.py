"""What this machine computes and reads in a second with a model's own experts: remembered, or measured once.

Measured anew for another CPU, number of threads, build of llama.cpp, disk or shape of experts, and where what was
stored is damaged. That a machine was too busy to be measured is remembered for ten minutes, so that not each start
spends seconds on finding out. Decides nothing: see qwenctl/moe/layout_choice.py.
"""

from __future__ import annotations

import time
from pathlib import Path

from qwenctl.moe.calibration import (
    Calibration,
    CalibrationKey,
    DiskRate,
    load_calibration,
    shape_name,
    store_calibration,
    stored_at_s,
)
from qwenctl.moe.disk_speed import DEPTHS, measure_disk
from qwenctl.moe.expert_map import ExpertMap
from qwenctl.moe.ggml_calls import Ggml
from qwenctl.moe.measure_experts import MEMORY_BYTES, kind_name, measure_experts
from qwenctl.services.calibration_key import calibration_key
from qwenctl.services.memory_limits import machine_memory
from qwenctl.units import GIB, MIB

_CPU_S, _DISK_S = 2.0, 1.0  # for a model of _WHOLE_BYTES of experts and more; smaller ones are worth less
_WHOLE_BYTES = 2 * GIB
_LEAST_SHARE = 0.04
_BUSY_S = 600.0
_LEAST_MEMORY_BYTES = 16 * MIB


def calibrated(experts: ExpertMap, ggml: Ggml, cache_dir: Path, n_threads: int, *, again: bool = False) -> Calibration:
    """Return this machine's rates for a model's experts.

    Takes at most a tenth of the memory that is left while it measures.

    Args:
        experts: the model's.
        ggml: the library.
        cache_dir: where rates are kept; it need not be writable.
        n_threads: that compute.
        again: measure, whatever is stored.

    Returns:
        The rates; empty where the machine is too small or too busy to be measured.

    Raises:
        ExpertReadFailed: the model's file cannot be read.
    """
    key = key_of(experts, n_threads)
    stored = None if again else load_calibration(key, cache_dir)
    if stored is not None and (stored.experts or time.time() - stored_at_s(key, cache_dir) < _BUSY_S):
        return stored
    memory_bytes = min(MEMORY_BYTES, machine_memory().available_bytes // 10)
    if memory_bytes < _LEAST_MEMORY_BYTES:
        return Calibration(key)
    share = min(1.0, max(_LEAST_SHARE, experts.expert_bytes / _WHOLE_BYTES))
    rates = measure_experts(ggml, experts, n_threads, budget_s=share * _CPU_S, memory_bytes=memory_bytes)
    made = Calibration(key, rates, _disk_rates(experts, share * _DISK_S, memory_bytes) if rates else ())
    store_calibration(made, cache_dir)
    return made


def key_of(experts: ExpertMap, n_threads: int) -> CalibrationKey:
    """Return under which name the rates of a model's experts are kept."""
    first = experts.layers[0]
    kinds = tuple(kind_name(layer) for layer in experts.layers)
    n_ff = first.tensors[-1].n_in
    return calibration_key(experts.paths[0], shape_name(kinds, experts.n_embd, n_ff, experts.n_experts), n_threads)


def _disk_rates(experts: ExpertMap, budget_s: float, memory_bytes: int) -> tuple[DiskRate, ...]:
    """Measure the file with the most experts; nothing where its reads come from memory."""
    tensors = [tensor for layer in experts.layers for tensor in layer.tensors]
    size = [sum(tensor.expert_bytes for tensor in tensors if tensor.file == file) for file in range(len(experts.paths))]
    slice_bytes = max(tensor.expert_bytes for tensor in tensors)
    depths = tuple(one for one in DEPTHS if 2 * one * slice_bytes <= memory_bytes)  # destinations and staging
    if not depths:
        return ()
    path = experts.paths[size.index(max(size))]
    speed = measure_disk(path, slice_bytes=slice_bytes, budget_s=budget_s, depths=depths)
    return speed.rates if speed.past_cache else ()
