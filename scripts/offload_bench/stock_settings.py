"""The choices that llama.cpp leaves to its users, as a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StockSettings:
    """What is passed to llama.cpp; the defaults are its own on a machine without a GPU."""

    repack: bool = True  # use_extra_bufts
    n_ubatch: int = 512
    n_gpu_layers: int = 0  # -1: all
    n_cpu_moe: int = 0  # the experts of so many first layers on the CPU

    @property
    def is_tuned(self) -> bool:
        """Whether the micro-batch is not llama.cpp's own."""
        return self.n_ubatch != StockSettings().n_ubatch

    @property
    def name(self) -> str:
        """What tables say."""
        gpu_layers = "all" if self.n_gpu_layers < 0 else str(self.n_gpu_layers)
        placed = f", GPU layers: {gpu_layers}, of these with experts on the CPU: {self.n_cpu_moe}"
        packed = "repacked" if self.repack else "plain"
        return f"{packed}, micro-batch {self.n_ubatch}{placed if self.n_gpu_layers else ''}"
