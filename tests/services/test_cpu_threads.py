"""Threads from an invented machine's /proc and /sys."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenctl.services.cpu_threads import cpu_quota, default_n_threads, n_physical_cores


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _siblings(*groups: str) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{group}\n"
        for group in groups
        for cpu in group.split(",")
    }


def test_two_threads_of_one_core_count_once(tmp_path: Path) -> None:
    root = _write(tmp_path, _siblings("0,4", "1,5", "2,6", "3,7"))
    assert n_physical_cores(root, frozenset(range(8))) == 4
    assert n_physical_cores(root, frozenset({0, 4, 5})) == 2
    assert n_physical_cores(root, frozenset({8, 9})) == 2  # unknown: each a core


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/user/run\n", "sys/fs/cgroup/user/run/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/user/run\n", "sys/fs/cgroup/user/run/cpu.max": "250000 100000\n"}, 2.5),
        (  # a parent is stricter
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
            },
            1.5,
        ),
        (  # version 1, mounted as the container sees it
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/1234\n2:memory:/x\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "garbage\n\n0::/../..\n", "sys/fs/cgroup/cpu.max": "x y\n"}, None),
    ],
)
def test_cpu_quota(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert cpu_quota(_write(tmp_path, files)) == quota


def test_threads_are_cores_within_the_quota(tmp_path: Path) -> None:
    files = _siblings("0,4", "1,5", "2,6", "3,7") | {"proc/self/cgroup": "0::/\n"}
    root = _write(tmp_path, files)
    assert default_n_threads(root, frozenset(range(8))) == 4
    _write(root, {"sys/fs/cgroup/cpu.max": "250000 100000"})
    assert default_n_threads(root, frozenset(range(8))) == 3
    _write(root, {"sys/fs/cgroup/cpu.max": "10000 100000"})
    assert default_n_threads(root, frozenset(range(8))) == 1
    assert default_n_threads() >= 1
