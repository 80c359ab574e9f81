"""Which settings of stock llama.cpp are measured: its own, and those that a user who looks for speed would try.

Pure: sizes in, settings out. Knows nothing of files and of how devices are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .stock_settings import StockSettings
from .task import Phase

_DEVICE_RESERVE_BYTES = 1 << 30  # KV cache, activations, what the driver takes: as --fit leaves it


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What a file holds. `n_layers` of equal size."""

    n_layers: int
    n_experts_used: int
    dense_bytes: int
    expert_bytes: int

    def limit_bytes(self, memory_fraction: float) -> int:
        """Return the memory of a child: all but the experts, a part of the experts, and something for the rest."""
        allowance = AMPLE_BYTES if memory_fraction >= 1 else ALLOWANCE_BYTES
        return self.dense_bytes + allowance + int(memory_fraction * self.expert_bytes)


ALLOWANCE_BYTES = int(0.35 * (1 << 30))  # KV cache, activations, Python and the libraries
AMPLE_BYTES = int(1.5 * (1 << 30))  # so much that everything fits, micro-batches of 2,048 and repacked copies included
LIMIT_FORMULA = "memory limit = bytes outside the experts + 0.35 GiB (at 100%: 1.5) + fraction x bytes of the experts"


def stock_settings(
    sizes: ModelSizes, memory_fraction: float, phase: Phase, device_bytes: Sequence[int] = ()
) -> tuple[StockSettings, ...]:
    """Return what is tried at one memory limit.

    Args:
        sizes: of the model.
        memory_fraction: of the experts that fit into memory; the repacked copy of them fits at 1 only.
        phase: prompts of 2,048 tokens are tried in one micro-batch, too.
        device_bytes: free memory of each GPU.
    """
    tried = [StockSettings(repack=False)]
    if memory_fraction >= 1:
        tried.append(StockSettings(repack=True))
    for free_bytes in (sum(device_bytes),) if device_bytes else ():
        tried += _gpu_settings(sizes, free_bytes)
    if phase == "prefill_2048":
        tried += [replace(settings, n_ubatch=2048) for settings in tried]
    return tuple(tried)


def _gpu_settings(sizes: ModelSizes, free_bytes: int) -> list[StockSettings]:
    """Return three placements: all experts on the CPU, as many on the GPU as fit, whole layers as many as fit."""
    left = free_bytes - _DEVICE_RESERVE_BYTES - sizes.dense_bytes
    n_fitting = max(0, min(sizes.n_layers, left * sizes.n_layers // sizes.expert_bytes))
    layer_bytes = (sizes.dense_bytes + sizes.expert_bytes) // sizes.n_layers
    n_whole = max(0, min(sizes.n_layers, (free_bytes - _DEVICE_RESERVE_BYTES) // layer_bytes))
    found = [
        StockSettings(repack=False, n_gpu_layers=-1, n_cpu_moe=sizes.n_layers),
        StockSettings(repack=False, n_gpu_layers=-1, n_cpu_moe=sizes.n_layers - n_fitting),
        StockSettings(repack=False, n_gpu_layers=n_whole),
    ]
    return [one for number, one in enumerate(found) if one.n_gpu_layers and one not in found[:number]]
