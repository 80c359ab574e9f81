"""A machine as a plan sees it: what its memories hold, and what they, its processors and its disk do in a second.

Values only: hardware.py has published ones, machine_text.py parses descriptions, services/this_machine.py looks here.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwenctl.moe.machine_memory import MachineMemory
from qwenctl.moe.prefill_rates import PrefillRates


@dataclass(frozen=True, slots=True)
class GpuRates:
    """What one device does; rates that llama.cpp reaches, not the data sheet's.

    Raises:
        ValueError: a rate that is not above zero.
    """

    read_bytes_s: float  # of weights and cache, for one token
    macs_s: float  # multiplications with quantized weights, for a prompt
    layer_s: float  # that a layer takes beside, for one token: launches
    upload_bytes_s: float  # from main memory

    def __post_init__(self) -> None:
        if min(self.read_bytes_s, self.macs_s, self.upload_bytes_s) <= 0 or self.layer_s < 0:
            raise ValueError(f"no such device: {self}")


@dataclass(frozen=True, slots=True)
class CpuRates:
    """What all cores together do.

    Raises:
        ValueError: a rate that is not above zero.
    """

    n_threads: int
    read_bytes_s: float  # of dense weights and cache, for one token
    layer_s: float  # that a layer takes beside: threads meeting, small operations
    batch: PrefillRates  # of experts by their tokens, of dense products, and of the disk

    def __post_init__(self) -> None:
        if self.n_threads < 1 or self.read_bytes_s <= 0 or self.layer_s < 0:
            raise ValueError(f"no such processor: {self}")


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory and rates.

    Attributes:
        name: as it was described.
        memory: main memory and devices.
        gpus: one for each of `memory.devices`.
        cpu: processor and disk.
        band: estimates of speed are within this part of the truth, as a rule.
        assumptions: what was not said and taken to be so, a line each.

    Raises:
        ValueError: not as many rates as devices.
    """

    name: str
    memory: MachineMemory
    gpus: tuple[GpuRates, ...]
    cpu: CpuRates
    band: float
    assumptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.gpus) != len(self.memory.devices):
            raise ValueError(f"{len(self.gpus)} rates for {len(self.memory.devices)} devices")
