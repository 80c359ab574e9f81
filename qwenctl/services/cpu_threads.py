"""How many threads pay on this machine: the physical cores that this process may use, and no more than its CPU quota.

Two threads on one core share its arithmetic units, and more threads than the quota allows are stopped in the middle of
a matrix product while the others wait for them. Sources: proc(5), cgroups(7), the kernel's cputopology documentation.
"""

from __future__ import annotations

import math
import os
from pathlib import Path


def default_n_threads(root: Path = Path("/"), cpus: frozenset[int] | None = None) -> int:
    """Return the number of threads for llama.cpp; at least 1.

    Args:
        root: where /proc and /sys are looked for.
        cpus: the logical CPUs that may be used; None: those of this process.
    """
    if cpus is None:
        cpus = _usable_cpus()
    n_cores = n_physical_cores(root, cpus)
    quota = cpu_quota(root)
    return max(1, n_cores if quota is None else min(n_cores, math.ceil(quota)))


def n_physical_cores(root: Path, cpus: frozenset[int]) -> int:
    """Return the number of cores that `cpus` lie on; a CPU of unknown place counts as a core."""
    cores: set[object] = set()
    for cpu in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        try:
            siblings = (topology / "thread_siblings_list").read_text(encoding="ascii").strip()
        except OSError:
            siblings = ""
        cores.add(siblings or cpu)
    return len(cores)


def cpu_quota(root: Path) -> float | None:
    """Return how many CPUs' worth of time the control groups of this process allow; None: as much as there is."""
    quotas = [quota for folder in _groups(root) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _usable_cpus() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _groups(root: Path) -> list[Path]:
    """Return the folders of this process's control groups and of all their parents, version 2 and version 1."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup"
        mounts = [mount] if not controllers else [mount / controllers, mount / "cpu"]
        parts = [part for part in path.split("/") if part and part != ".."]
        folders += [one.joinpath(*parts[:depth]) for one in mounts for depth in range(len(parts) + 1)]
    return folders


def _quota_of(folder: Path) -> float | None:
    """Read cpu.max ("200000 100000", "max 100000") or cpu.cfs_quota_us (-1: none) and cpu.cfs_period_us."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            fields = " ".join((folder / name).read_text(encoding="ascii") for name in names).split()
            quota, period = int(fields[0]), int(fields[1])
        except (OSError, ValueError, IndexError):
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None
