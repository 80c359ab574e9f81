"""Which GPU drivers run here, as far as the kernel tells without asking a library."""

from __future__ import annotations

import re
from pathlib import Path


def driver_versions(root: Path = Path("/")) -> tuple[str, ...]:
    """Return a line for each driver that is loaded: "nvidia 580.95.05", "amdgpu 6.12.12", "xe".

    Args:
        root: where /proc and /sys are looked for.
    """
    found = []
    nvidia = _text(root / "proc/driver/nvidia/version")
    if match := re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]*)", nvidia):
        found.append(f"nvidia {match[1]}")
    for name in ("amdgpu", "i915", "xe"):
        module = root / "sys/module" / name
        if module.is_dir():
            found.append(f"{name} {_text(module / 'version').strip()}".strip())
    return tuple(found)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
