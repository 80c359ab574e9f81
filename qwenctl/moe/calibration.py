"""What was measured on this machine for one model shape, and its file in the cache folder. Measures nothing itself.

Devices are not in it: what they cost is measured in milliseconds each time a model is opened (device_costs.py).

One JSON file a key. A file that is damaged, of another format or for another key counts as missing: the next start
measures again. It is written beside its place and renamed, so that no reader meets half of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from qwenctl.moe.prefill_rates import PrefillRates

_FORMAT = 1
_FOLDER = "calibration"

Record = TypeVar("Record", "CalibrationKey", "ExpertRate", "DiskRate")


@dataclass(frozen=True, slots=True)
class CalibrationKey:
    """What the rates depend on. Texts are compared, not understood."""

    cpu: str  # its model name
    n_threads: int
    library: str  # the build of llama.cpp
    shape: str  # expert types and dimensions: see `shape_name`
    storage: str = ""  # where the model's file lies


@dataclass(frozen=True, slots=True)
class ExpertRate:
    """CPU: multiplications a second of experts with `n_tokens` tokens each."""

    type: str  # of the weights: measure_experts.kind_name
    layout: str  # plain, repack, amx
    operation: str  # id: one MUL_MAT_ID; expert: a MUL_MAT an expert
    n_tokens: int
    macs_s: float


@dataclass(frozen=True, slots=True)
class DiskRate:
    """Reads of experts with so many requests under way."""

    queue_depth: int
    bytes_s: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """All rates of one key.

    Raises:
        ValueError: a rate, a number of tokens or a queue depth that is not above zero, or is no number.
    """

    key: CalibrationKey
    experts: tuple[ExpertRate, ...] = ()
    disk: tuple[DiskRate, ...] = ()

    def __post_init__(self) -> None:
        records: tuple[Any, ...] = (self.key, *self.experts, *self.disk)
        for one in records:
            for name, value in asdict(one).items():
                if isinstance(value, int | float) and not (isfinite(value) and value > 0):
                    raise ValueError(f"{name} must be above zero, not {value}")

    def curve(self, type_name: str, layout: str, operation: str) -> tuple[tuple[float, float], ...]:
        """Return (tokens an expert, MAC/s) in ascending order of tokens; empty if this was not measured."""
        rates = {
            one.n_tokens: one.macs_s
            for one in self.experts
            if (one.type, one.layout, one.operation) == (type_name, layout, operation)
        }
        return tuple((float(n_tokens), rates[n_tokens]) for n_tokens in sorted(rates))

    def fastest(self, type_name: str, n_tokens: int, layouts: tuple[str, ...] | None = None) -> ExpertRate | None:
        """Return the fastest way for `n_tokens` an expert, judged at the nearest number of tokens that was measured.

        Args:
            type_name: of the weights.
            n_tokens: of each expert.
            layouts: those that may be used; None: all.
        """
        known = [one for one in self.experts if one.type == type_name and (layouts is None or one.layout in layouts)]
        if not known:
            return None
        nearest = min(known, key=lambda one: abs(one.n_tokens - n_tokens)).n_tokens
        return max((one for one in known if one.n_tokens == nearest), key=lambda one: one.macs_s)

    def fastest_disk(self) -> DiskRate | None:
        """Return the shortest queue that reads at 95 % of the best rate; None if none was measured."""
        if not self.disk:
            return None
        enough = 0.95 * max(one.bytes_s for one in self.disk)
        return min((one for one in self.disk if one.bytes_s >= enough), key=lambda one: one.queue_depth)

    def prefill_rates(self, type_name: str, layout: str) -> PrefillRates:
        """Return what the choice of the micro-batch needs: the faster operation at each number of tokens."""
        rates: dict[float, float] = {}
        for operation in sorted({one.operation for one in self.experts}):
            for n_tokens, macs_s in self.curve(type_name, layout, operation):
                rates[n_tokens] = max(rates.get(n_tokens, 0.0), macs_s)
        usual, disk = PrefillRates(), self.fastest_disk()
        points = tuple(sorted(rates.items())) or usual.expert_macs_s
        return PrefillRates(disk.bytes_s if disk else usual.disk_bytes_s, points, points[-1][1])


def shape_name(types: tuple[str, ...], n_embd: int, n_ff_expert: int, n_experts: int) -> str:
    """Return how the shape of a model's experts is written: "Q4_K+Q6_K 2048x768x128"."""
    return f"{'+'.join(sorted(set(types)))} {n_embd}x{n_ff_expert}x{n_experts}"


def load_calibration(key: CalibrationKey, cache_dir: Path) -> Calibration | None:
    """Return what was stored for `key`; None if nothing was, or nothing that can be used."""
    found = _read(_path(key, cache_dir))
    return found if found is not None and found.key == key else None


def stored_at_s(key: CalibrationKey, cache_dir: Path) -> float:
    """Return when something was stored for `key`, in seconds since the epoch; 0 if nothing was."""
    try:
        return _path(key, cache_dir).stat().st_mtime
    except OSError:
        return 0.0


def stored_calibrations(cache_dir: Path) -> tuple[Calibration, ...]:
    """Return all that can be read, in no meaningful order; for `qwenctl doctor`."""
    found = (_read(path) for path in sorted((cache_dir / _FOLDER).glob("*.json")))
    return tuple(one for one in found if one is not None)


def store_calibration(calibration: Calibration, cache_dir: Path) -> bool:
    """Write it in place of an older one. False: the folder cannot be written; the next start measures again."""
    target = _path(calibration.key, cache_dir)
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    text = json.dumps({"format": _FORMAT, **asdict(calibration)}, indent=1)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _path(key: CalibrationKey, cache_dir: Path) -> Path:
    digest = hashlib.sha256(json.dumps(asdict(key), sort_keys=True).encode()).hexdigest()
    return cache_dir / _FOLDER / f"{digest[:32]}.json"


def _read(path: Path) -> Calibration | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            return None
        return Calibration(
            _record(CalibrationKey, document["key"]),
            tuple(_record(ExpertRate, one) for one in document["experts"]),
            tuple(_record(DiskRate, one) for one in document["disk"]),
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _record(kind: type[Record], values: dict[str, Any]) -> Record:
    """Return a record of `kind`; the annotations of its fields are the types that its values must have.

    Raises:
        TypeError: unknown or missing names, or a value of another type.
    """
    made = kind(**values)
    for field in fields(made):
        value = getattr(made, field.name)
        wanted = {"str": str, "int": int, "float": (int, float)}[str(field.type)]
        if not isinstance(value, wanted) or isinstance(value, bool):  # type: ignore[arg-type]
            raise TypeError(f"{field.name} is {value!r}")
    return made
