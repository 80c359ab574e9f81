"""What steps of a model took on this machine, by number of sequences: a small JSON file each in the cache folder.

    <cache>/steps/<digest>.json    {"files": …, "library": …, "cpu": …, "devices": …, "options": …,
                                    "steps": {"16": [256, 0.0041], …}, "chosen": {"batch": 16}}

The first line is what the times depend on: the model's files, the build of llama.cpp, processor and devices, and every
option but how long and how many sequences are. A file that cannot be read or makes no sense counts as empty, one that
cannot be written is missed by nobody. Of two processes that write at the same time the last one stays, whole.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from qwenctl.moe.machine_memory import DeviceMemory
from qwenctl.services.calibration_key import cpu_name
from qwenctl.services.cpu_threads import default_n_threads
from qwenctl.services.engine_options import MAX_PARALLEL, EngineOptions, Purpose
from qwenctl.services.load_record import Identity, identity_of
from qwenctl.services.parallel_rule import StepTime
from qwenctl.services.private_file import replace_private

FOLDER_NAME = "steps"  # in the cache folder
_MOST_FILES = 64
_MOST_BYTES = 1 << 18
_MOST_STEPS = 1 << 20
_BELIEF = 0.25  # in a run that was slower than those before


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What is known of one model, opened in one way.

    Raises:
        ValueError: a number of sequences or steps out of range, or a time that is none.
    """

    steps: Mapping[int, StepTime] = field(default_factory=dict)  # by number of sequences
    chosen: Mapping[str, int] = field(default_factory=dict)  # sequences of the last run where nobody said, by purpose

    def __post_init__(self) -> None:
        for n_parallel in (*self.steps, *self.chosen.values()):
            if not 1 <= n_parallel <= MAX_PARALLEL:
                raise ValueError(f"{n_parallel} sequences")
        for n_steps, seconds in self.steps.values():
            if not (1 <= n_steps <= _MOST_STEPS and math.isfinite(seconds) and 1e-9 < seconds < 1e6):
                raise ValueError(f"{n_steps} steps of {seconds} s")

    def with_run(self, run: Mapping[int, StepTime]) -> StepRecord:
        """Return the record with another run's times; what was measured before counts half as much then."""
        steps = {n: StepTime(max(1, old.n_steps // 2), old.seconds) for n, old in self.steps.items()}
        merged = {n: _merged(steps[n], new) if n in steps else new for n, new in run.items()}
        return replace(self, steps=steps | merged)

    def with_choice(self, purpose: Purpose, n_parallel: int) -> StepRecord:
        """Return the record with what was chosen for another run."""
        return replace(self, chosen={**self.chosen, purpose: n_parallel})


class StepFile:
    """Where the record of one identity is kept.

    Args:
        identity: what the times depend on, for JSON.
        cache_dir: the cache folder; it need not be there, nor be writable.
    """

    def __init__(self, identity: Identity, cache_dir: Path) -> None:
        self._identity = identity
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self.path = cache_dir / FOLDER_NAME / f"{digest[:32]}.json"

    @classmethod
    def of(cls, path: Path, options: EngineOptions, devices: Sequence[DeviceMemory]) -> Self | None:
        """Return the file for a model, or None where nothing is kept.

        With devices of other machines nothing is: a file of this one would have to tell which.

        Args:
            path: the GGUF file; of a split set, the first one.
            options: with which it is opened.
            devices: that it may use.
        """
        files = None if options.step_times is None or options.rpc else identity_of(path)
        if files is None or options.step_times is None:
            return None
        return cls({**files, **_circumstances(options, devices)}, options.step_times.cache_dir)

    def read(self) -> StepRecord:
        """Return what is known; an empty record where there is none, or none that makes sense."""
        try:
            with self.path.open("rb") as file:
                document = json.loads(file.read(_MOST_BYTES).decode())
            if any(document[name] != value for name, value in json.loads(json.dumps(self._identity)).items()):
                return StepRecord()
            steps = {int(n): StepTime(_whole(count), float(s)) for n, (count, s) in document["steps"].items()}
            return StepRecord(steps, {str(purpose): _whole(n) for purpose, n in document["chosen"].items()})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            return StepRecord()

    def update(self, change: Callable[[StepRecord], StepRecord]) -> None:
        """Replace the record by what `change` makes of it. It stays as it is where that makes no sense, or the disk or
        the folder refuses."""
        with suppress(OSError, ValueError):
            record = change(self.read())
            document = {**self._identity, "steps": record.steps, "chosen": record.chosen}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_private(self.path, json.dumps(document).encode())
            _forget_oldest(self.path.parent)


def _circumstances(options: EngineOptions, devices: Sequence[DeviceMemory]) -> Identity:
    """Return what times depend on besides the model and the library."""
    alike = replace(
        options,
        n_ctx=None,
        n_parallel=1,
        n_cells=None if options.n_cells is None else 1,
        n_threads=options.n_threads or default_n_threads(),
        n_outputs=None,
        trace_file=None,
        prefix_cache=None,
        step_times=None,
        offload=replace(options.offload, calibration_dir=None, reserved_bytes=0),
    )
    return {
        "cpu": cpu_name(),
        "devices": [[device.name, device.total_bytes] for device in devices],
        "options": asdict(alike),
    }


def _merged(old: StepTime, new: StepTime) -> StepTime:
    """Other programs only ever add time, and may add a hundredfold: a faster run is believed at once, a slower one by
    and by, and at most a quarter a run."""
    slower_s = min(max(0.0, new.seconds - old.seconds), old.seconds)
    return StepTime(old.n_steps + new.n_steps, min(old.seconds, new.seconds) + _BELIEF * slower_s)


def _forget_oldest(folder: Path) -> None:
    """Remove what was written longest ago, temporary files of processes that were killed included."""
    files = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for path in files[:-_MOST_FILES]:
        path.unlink(missing_ok=True)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value
