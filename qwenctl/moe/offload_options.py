"""What a user or a test may decide about expert offloading. Values only; None and "auto" leave it to sizing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwenctl.errors import InvalidRequest
from qwenctl.units import MIB

OffloadMode = Literal["auto", "off", "on"]
Layout = Literal["auto", "plain", "repack", "amx"]
Operation = Literal["auto", "id", "expert"]
Prefetch = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class OffloadOptions:
    """Overrides of what sizing and calibration find.

    Raises:
        InvalidRequest: a value is out of range; the message names it.
    """

    mode: OffloadMode = "auto"  # auto: when the model does not fit, or when it is faster than stock llama.cpp
    ram_bytes: int | None = None  # of main memory for this process in all; None: what is available
    vram_bytes: int | None = None  # of device memory in all; None: what is free
    layout: Layout = "auto"  # of expert weights in their slots
    operation: Operation = "auto"  # id: one MUL_MAT_ID a matrix; expert: a MUL_MAT an expert on gathered tokens
    reserved_bytes: int = 0  # of main memory that is not for the model: what else this process is going to hold
    n_io_threads: int | None = None
    prefetch: Prefetch = "auto"
    n_slots: int | None = None  # in every layer, whatever the budget would give: for tests
    calibration_dir: Path | None = None  # where this machine's rates are kept; None: nothing is measured

    def __post_init__(self) -> None:
        for name, low, high in (
            ("ram_bytes", 16 * MIB, 1 << 50),
            ("vram_bytes", 0, 1 << 50),
            ("reserved_bytes", 0, 1 << 50),
            ("n_io_threads", 1, 256),
            ("n_slots", 1, 1 << 20),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidRequest(f"{name} must lie between {low} and {high}, not {value}")
