"""Under which name this machine's measured rates are kept: its CPU, its threads, the build of llama.cpp, the disk."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

from qwenctl.moe.calibration import CalibrationKey


def calibration_key(model: Path, shape: str, n_threads: int, root: Path = Path("/")) -> CalibrationKey:
    """Return the key for a model's file, the shape of its experts and a number of threads.

    Args:
        model: the file, or the first of a split set.
        shape: qwenctl.moe.calibration.shape_name.
        n_threads: that compute.
        root: where /proc is looked for.
    """
    return CalibrationKey(cpu_name(root), n_threads, _library(), shape, _storage(model))


def cpu_name(root: Path = Path("/")) -> str:
    """Return the model name of the CPU as the kernel tells it, or whatever Python knows of it."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for key in ("model name", "Model", "Hardware", "CPU part"):  # the first on x86, the others on ARM
        if match := re.search(rf"^{key}\s*:\s*(\S.*)$", text, re.MULTILINE):
            return match.group(1).strip()
    return platform.processor() or platform.machine() or "unknown"


def _library() -> str:
    """Return the package's version, and size and time of its CPU library: they differ from build to build."""
    package = metadata.distribution("llama-cpp-python")
    libraries = sorted(Path(str(package.locate_file("llama_cpp/lib"))).glob("*ggml-cpu*"))
    builds = {f"{status.st_size} {status.st_mtime_ns}" for status in (path.stat() for path in libraries)}
    return " ".join([package.version, *sorted(builds)])


def _storage(model: Path) -> str:
    """Return the mount point under which a file lies."""
    folder = Path(os.path.realpath(model)).parent
    while folder != folder.parent and not os.path.ismount(folder):
        folder = folder.parent
    return str(folder)
