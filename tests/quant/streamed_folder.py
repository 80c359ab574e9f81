"""A checkpoint on the disk whose shards are read as if they came from elsewhere, and that can go wrong on the way."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from quant.conversion_plan import ConversionPlan, plan_source, read_source
from quant.recipe import OUTPUT_TYPES
from quant.source_files import DiskFiles

Fault = Callable[[Path, int, memoryview], None]


class StreamedFolder(DiskFiles):
    """What `run_streamed` reads from.

    Args:
        fault: called with path, offset and the bytes of each fetch, which it may change; or it may raise.
        latency_s: of a fetch.
    """

    def __init__(self, fault: Fault = lambda *_: None, latency_s: float = 0.0) -> None:
        self.fault = fault
        self.latency_s = latency_s
        self.n_bytes: Counter[str] = Counter()  # fetched, by name
        self._lock = threading.Lock()

    def describe(self, path: Path) -> str:
        return f"sha256 {self.sha256(path)}"

    def sha256(self, path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def header_sha256(self, path: Path) -> str:
        n_bytes = 8 + int.from_bytes(self.read(path, 0, 8), "little")
        return hashlib.sha256(self.read(path, 0, n_bytes)).hexdigest()

    def fetch(self, path: Path, offset_bytes: int, out: memoryview) -> None:
        time.sleep(self.latency_s)
        out[:] = self.read(path, offset_bytes, len(out))
        with self._lock:
            self.n_bytes[path.name] += len(out)
        self.fault(path, offset_bytes, out)


def plan_streamed(folder: Path, source: StreamedFolder, output_type: str = "q8_0") -> ConversionPlan:
    """Return the plan of the checkpoint in `folder`."""
    return plan_source(read_source(folder, files=source), OUTPUT_TYPES[output_type])
