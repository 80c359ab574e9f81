"""Which of Qwen3's models suit a machine, at a glance: where each would lie, how fast it would answer, which to take.

    seconds a token = share on GPUs × (bytes / their rate + layers × launch)
                      + share in memory × (bytes / the processor's rate + layers × what threads take to meet)

Rougher than a plan (planning/speed.py): no cache is read, and no experts come from the disk. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from qwenctl.planning.machine import CpuRates, GpuRates
from qwenctl.planning.qwen3_sizes import QWEN3, KnownModel

Where = Literal["GPU", "GPU and memory", "memory", "disk in part", "nowhere"]

USUAL_QUANT = "q4_k_m"
READING_TOKENS_S = 20.0  # as fast as people read
PATIENT_TOKENS_S = 5.0  # as slow as a chat is still one
_OTHER_BYTES = 512 << 20  # of buffers, in main memory
_GPU_OTHER_BYTES = 768 << 20  # of each GPU
_LEAST_EXPERTS = 0.12  # of a model larger than memory, that should be in it


@dataclass(frozen=True, slots=True)
class Glance:
    """A machine, at a glance: bytes that are free, and rates."""

    ram_bytes: int
    cpu: CpuRates
    gpus: tuple[tuple[int, GpuRates], ...] = ()  # free bytes, rates

    @property
    def gpu_bytes(self) -> int:
        """What weights and cache may take of all GPUs."""
        return sum(max(0, free_bytes - _GPU_OTHER_BYTES) for free_bytes, _ in self.gpus)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a model on a machine. `tokens_s`: of an answer; None where the disk decides."""

    model: KnownModel
    quant: str
    where: Where
    tokens_s: float | None

    @property
    def file_bytes(self) -> int:
        """Of the file in this type."""
        return self.model.quants[self.quant].file_bytes


def advise_all(machine: Glance, models: Sequence[KnownModel] = QWEN3) -> tuple[Verdict, ...]:
    """Return what becomes of each model, in the type that suits it."""
    return tuple(_best_quant(model, machine) for model in models)


def recommended(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the most able model that answers at a bearable speed without a disk; if none does, the fastest."""
    bearable = [one for one in verdicts if (one.tokens_s or 0) >= PATIENT_TOKENS_S]
    return bearable[-1] if bearable else max(verdicts, key=lambda one: one.tokens_s or 0)


def verdict(model: KnownModel, quant: str, machine: Glance) -> Verdict:
    """Return what becomes of a model in one type."""
    size = model.quants[quant]
    needed = size.file_bytes + model.kv_bytes
    on_gpu = min(1.0, max(0.0, machine.gpu_bytes - model.kv_bytes) / size.file_bytes)
    if on_gpu == 1.0:
        return Verdict(model, quant, "GPU", _tokens_s(model, quant, machine, on_gpu))
    if needed + _OTHER_BYTES <= machine.ram_bytes + machine.gpu_bytes:
        where: Where = "GPU and memory" if on_gpu > 0 else "memory"
        return Verdict(model, quant, where, _tokens_s(model, quant, machine, on_gpu))
    # Without its experts a model is a twentieth of itself at most.
    if model.has_experts and (_LEAST_EXPERTS + 0.05) * size.file_bytes <= machine.ram_bytes + machine.gpu_bytes:
        return Verdict(model, quant, "disk in part", None)
    return Verdict(model, quant, "nowhere", None)


def _best_quant(model: KnownModel, machine: Glance) -> Verdict:
    """Return the verdict for the best type on GPUs; in memory the best that is quick to read, else the usual one."""
    verdicts = [verdict(model, quant, machine) for quant in model.quants]
    on_gpu = [one for one in verdicts if one.where == "GPU"]
    quick = [one for one in verdicts if (one.tokens_s or 0) >= READING_TOKENS_S]
    usual = next(one for one in verdicts if one.quant == USUAL_QUANT)
    return (on_gpu or quick or [usual])[0]


def _tokens_s(model: KnownModel, quant: str, machine: Glance, on_gpu: float) -> float:
    n_bytes, n_layers = model.quants[quant].token_bytes, model.n_layers
    total = sum(free_bytes for free_bytes, _ in machine.gpus)
    shares = [(free_bytes / total, rates) for free_bytes, rates in machine.gpus] if total else []
    gpu_s = sum(share * (n_bytes / rates.read_bytes_s + n_layers * rates.layer_s) for share, rates in shares)
    cpu_s = n_bytes / machine.cpu.read_bytes_s + n_layers * machine.cpu.layer_s
    return 1 / (on_gpu * gpu_s + (1 - on_gpu) * cpu_s)
