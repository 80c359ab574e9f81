"""Which device holds which layers: llama.cpp's rule, and the numbers that make llama.cpp follow ours. Pure.

llama.cpp splits the last `n_gpu_layers` of a model's layers, the output counted as one more, over its devices in
proportion to `tensor_split`, or to what is free when it loads (llama_model_base::load_tensors). What is free changes
between planning and loading, and single precision rounds; so a plan is handed over as the number of layers of each
device: layer k of n then compares k / n with sums of whole numbers over n, and every layer goes where it was planned.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from qwenctl.moe.machine_memory import DeviceMemory
from qwenctl.units import MIB

_MARGIN_BYTES = 128 * MIB  # of a device, for its library's own buffers
_MARGIN_SHARE = 32  # and this part of its free memory


def usable_bytes(devices: Sequence[DeviceMemory], vram_bytes: int | None) -> list[int]:
    """Return what may be taken of each device: what is free without a margin, at most `vram_bytes` of all together."""
    free = [max(0, one.free_bytes - _MARGIN_BYTES - one.free_bytes // _MARGIN_SHARE) for one in devices]
    total = sum(free)
    if vram_bytes is None or total <= vram_bytes:
        return free
    return [one * vram_bytes // total for one in free]


def held_layers(n_layers: int, proportions: Sequence[float], count: int) -> list[list[int]]:
    """Return each device's layers if the last `count` are on devices; the output is layer `n_layers`.

    Args:
        n_layers: of the model.
        proportions: of each device, with a sum above zero.
        count: from 1 to n_layers + 1.
    """
    first = n_layers + 1 - count
    shares = [part / sum(proportions) for part in accumulate(proportions)]
    last = max(index for index, part in enumerate(proportions) if part)
    held: list[list[int]] = [[] for _ in proportions]
    for layer in range(first, n_layers + 1):
        held[min(bisect_right(shares, (layer - first) / count), last)].append(layer)
    return held
