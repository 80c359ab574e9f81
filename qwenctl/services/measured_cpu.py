"""What this machine's processor does in a second: by what was measured here earlier, else as a usual one.

Measures nothing, and imports nothing heavy: the first screen is to be there at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quant.ggml_types import GGML_TYPES
from qwenctl.moe.calibration import Calibration
from qwenctl.moe.prefill_rates import PrefillRates
from qwenctl.planning.hardware import (
    CORE_DENSE_MACS_S,
    CORE_MACS_S,
    CORE_READ_BYTES_S,
    CPU_LAYER_S,
    DISKS,
    GB,
)
from qwenctl.planning.machine import CpuRates
from qwenctl.services.calibration_key import cpu_name

_UNKNOWN_TYPE_BITS = 4.5


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


def nearest_calibration(stored: Sequence[Calibration], n_threads: int) -> Calibration | None:
    """Return the last of the same processor and number of threads; None: there is none."""
    same = [one for one in stored if (one.key.cpu, one.key.n_threads) == (cpu_name(), n_threads)]
    return same[-1] if same else None


def rates_words(calibration: Calibration | None) -> tuple[str, ...]:
    """Return what a plan says of where its rates come from, a line each."""
    if calibration is None:
        return ("nothing was measured here yet: rates are those of a usual processor and disk",)
    return (f"rates of the processor as measured here with experts of {calibration.key.shape}",)
