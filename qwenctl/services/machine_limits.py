"""What this process may use of the machine, and what it has used."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_STATUS = Path("/proc/self/status")


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_rss_bytes() -> int:
    """Return the largest resident size that this process has had; 0 where the system does not say.

    Linux is asked for VmHWM: its getrusage counts what the parent held before the exec, too.
    """
    if _STATUS.is_file():
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
        return int(found.group(1)) * 1024 if found else 0
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): kilobytes, but bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
