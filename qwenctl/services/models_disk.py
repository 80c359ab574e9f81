"""How fast the disk under the models' folder reads, by a short look at the largest model there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qwenctl.errors import ExpertReadFailed
from qwenctl.moe.disk_speed import measure_disk
from qwenctl.units import MIB

_SLICE_BYTES = MIB
_BUDGET_S = 0.3
_DEPTHS = (1, 4)
_LEAST_BYTES = 64 * MIB  # a smaller file lies in a drive's own cache


@dataclass(frozen=True, slots=True)
class DiskLook:
    """A short measurement: random reads of 1 MiB, one at a time and four. `past_cache`: not from the page cache."""

    path: Path
    past_cache: bool
    one_bytes_s: float
    four_bytes_s: float


def look_at_disk(folder: Path) -> DiskLook | None:
    """Read from the largest GGUF file in `folder` for 0.3 s; None: there is none of 64 MiB, or it cannot be read."""
    try:
        sizes = [(path.stat().st_size, path) for path in folder.rglob("*.gguf") if path.is_file()]
    except OSError:
        return None
    size, path = max(sizes, default=(0, folder))
    if size < _LEAST_BYTES:
        return None
    try:
        speed = measure_disk(path, slice_bytes=_SLICE_BYTES, budget_s=_BUDGET_S, depths=_DEPTHS)
    except (ExpertReadFailed, OSError):
        return None
    one, four = (rate.bytes_s for rate in speed.rates)
    return DiskLook(path, speed.past_cache, one, four)
