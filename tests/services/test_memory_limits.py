"""What memory may be used, from an invented machine's /proc and control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenctl.moe.machine_memory import DeviceMemory, MachineMemory
from qwenctl.services import memory_limits
from qwenctl.services.memory_limits import machine_memory

GIB = 1 << 30
NO_LIMIT_V1 = 9223372036854771712

V2_MOUNT = "24 1 0:21 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "30 24 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
CPU_MOUNT = "31 24 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"


def machine(
    root: Path,
    groups: str = "",
    mounts: str = V2_MOUNT,
    files: dict[str, str] | None = None,
    available: int = 24 * GIB,
) -> MachineMemory:
    """Write the files below `root` and ask; the machine has 32 GiB."""
    written = {
        "proc/meminfo": f"MemTotal:       {32 * GIB // 1024} kB\nMemFree:        100 kB\n"
        f"MemAvailable:   {available // 1024} kB\nHugePages_Total:       0\n",
        "proc/self/status": "Name:\tpython\nVmSize:\t  900000 kB\nRssAnon:\t  100 kB\nRssFile:\t 7000 kB\n"
        "RssShmem:\t  20 kB\n",
        "proc/self/cgroup": groups,
        "proc/self/mountinfo": mounts,
    } | (files or {})
    for name, text in written.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return machine_memory(root=root)


def v2(folder: str, limit: int | str, usage: int = 0, *, cache: int = 0, high: int | str = "max") -> dict[str, str]:
    """A group of version 2; `cache` is split over both lists."""
    folder = f"sys/fs/cgroup/{folder}".rstrip("/")
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.high": f"{high}\n",
        f"{folder}/memory.current": f"{usage}\n",
        f"{folder}/memory.stat": f"anon {usage - cache}\nfile {cache}\nfile_mapped 12\n"
        f"inactive_file {cache // 4}\nactive_file {cache - cache // 4}\nworkingset_refault_file 99\n",
    }


def v1(folder: str, limit: int, usage: int = 0, *, cache: int = 0, effective: int | None = None) -> dict[str, str]:
    """A group of version 1, whose own processes hold nothing: all of it is in groups below."""
    folder = f"sys/fs/cgroup/memory/{folder}".rstrip("/")
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{usage}\n",
        f"{folder}/memory.stat": f"cache 0\ninactive_file 0\nactive_file 0\nhierarchical_memory_limit "
        f"{limit if effective is None else effective}\ntotal_cache {cache}\ntotal_rss {usage - cache}\n"
        f"total_inactive_file {cache // 4}\ntotal_active_file {cache - cache // 4}\n",
    }


def test_a_machine_without_limits(tmp_path: Path) -> None:
    found = machine(tmp_path, "0::/user.slice\n", files=v2("user.slice", "max", 3 * GIB))
    assert found == MachineMemory(24 * GIB, 120 * 1024, 32 * GIB, "this machine", shared=True)


def test_a_group_of_version_2(tmp_path: Path) -> None:
    found = machine(tmp_path, "0::/app\n", files=v2("app", 8 * GIB, 3 * GIB))
    assert (found.available_bytes, found.limit_bytes, found.shared) == (5 * GIB, 8 * GIB, False)
    assert found.bound_by == "the control group /sys/fs/cgroup/app"
    assert found.budget_bytes == 5 * GIB + 120 * 1024


def test_page_cache_of_a_group_can_be_taken(tmp_path: Path) -> None:
    found = machine(tmp_path, "0::/app\n", files=v2("app", 8 * GIB, 8 * GIB, cache=6 * GIB))
    assert found.available_bytes == 6 * GIB


def test_the_soft_limit_of_version_2_counts_too(tmp_path: Path) -> None:
    found = machine(tmp_path, "0::/app\n", files=v2("app", 8 * GIB, GIB, high=4 * GIB))
    assert (found.available_bytes, found.limit_bytes) == (3 * GIB, 4 * GIB)
    found = machine(tmp_path, "0::/app\n", files=v2("app", "max", GIB, high=4 * GIB))
    assert (found.available_bytes, found.limit_bytes) == (3 * GIB, 4 * GIB)


def test_a_parent_that_has_less_left_is_the_bound(tmp_path: Path) -> None:
    files = v2("a", 10 * GIB, 9 * GIB, cache=GIB) | v2("a/b", "max", 2 * GIB) | v2("a/b/c", 8 * GIB, GIB)
    found = machine(tmp_path, "0::/a/b/c\n", files=files)
    assert found.available_bytes == 2 * GIB  # a: 10 - (9 - 1); c alone would have 7
    assert found.limit_bytes == 8 * GIB
    assert found.bound_by == "the control group /sys/fs/cgroup/a"


def test_a_group_of_version_1(tmp_path: Path) -> None:
    groups = "9:name=systemd:/\n4:memory:/app/x\n1:cpu:/other\n0::/\n"
    files = v1("app/x", 6 * GIB, 5 * GIB, cache=4 * GIB) | v1("app", NO_LIMIT_V1, 9 * GIB) | v1("", NO_LIMIT_V1)
    found = machine(tmp_path, groups, V1_MOUNT + CPU_MOUNT, files)
    assert (found.available_bytes, found.limit_bytes) == (5 * GIB, 6 * GIB)
    assert found.bound_by == "the control group /sys/fs/cgroup/memory/app/x"


def test_no_limit_in_version_1_is_a_large_number(tmp_path: Path) -> None:
    found = machine(tmp_path, "4:memory:/app\n", V1_MOUNT, v1("app", NO_LIMIT_V1, 9 * GIB))
    assert (found.available_bytes, found.limit_bytes, found.bound_by) == (24 * GIB, 32 * GIB, "this machine")


def test_a_parent_of_version_1_is_stricter(tmp_path: Path) -> None:
    files = v1("app", 3 * GIB, 2 * GIB) | v1("app/x", 6 * GIB, GIB)
    found = machine(tmp_path, "4:memory:/app/x\n", V1_MOUNT, files)
    assert (found.available_bytes, found.limit_bytes) == (GIB, 3 * GIB)


def test_a_parent_outside_the_container_still_limits_in_version_1(tmp_path: Path) -> None:
    mount = "30 24 0:26 /docker/4f5e /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    files = v1("", NO_LIMIT_V1, GIB, effective=5 * GIB)
    found = machine(tmp_path, "4:memory:/docker/4f5e\n", mount, files)
    assert (found.available_bytes, found.limit_bytes) == (4 * GIB, 5 * GIB)
    files = v1("inner", 2 * GIB, GIB)
    assert machine(tmp_path, "4:memory:/docker/4f5e/inner\n", mount, files).available_bytes == GIB


def test_a_hybrid_machine_has_memory_in_version_1(tmp_path: Path) -> None:
    mounts = V1_MOUNT + "33 24 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    files = v1("app", 6 * GIB, GIB) | {"sys/fs/cgroup/unified/app/cgroup.procs": "1\n"}
    found = machine(tmp_path, "4:memory:/app\n0::/app\n", mounts, files)
    assert found.available_bytes == 5 * GIB


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    assert machine(tmp_path, "0::/\n", files=v2("", 4 * GIB, GIB)).available_bytes == 3 * GIB


def test_a_path_above_the_namespace_means_the_mount_itself(tmp_path: Path) -> None:
    assert machine(tmp_path, "0::/../..\n", files=v2("", 4 * GIB, GIB)).available_bytes == 3 * GIB


def test_a_mount_point_with_blanks(tmp_path: Path) -> None:
    mounts = "24 1 0:21 / /mnt/control\\040groups rw - cgroup2 cgroup2 rw\n"
    files = {name.replace("sys/fs/cgroup", "mnt/control groups"): text for name, text in v2("a", GIB, 0).items()}
    assert machine(tmp_path, "0::/a\n", mounts, files).available_bytes == GIB


def test_a_full_group_has_nothing_left(tmp_path: Path) -> None:
    found = machine(tmp_path, "0::/app\n", files=v2("app", 2 * GIB, 3 * GIB))
    assert (found.available_bytes, found.limit_bytes) == (0, 2 * GIB)


def test_a_group_larger_than_the_machine_is_no_bound(tmp_path: Path) -> None:
    found = machine(tmp_path, "0::/app\n", files=v2("app", 64 * GIB, GIB))
    assert (found.available_bytes, found.limit_bytes, found.shared) == (24 * GIB, 32 * GIB, True)


@pytest.mark.parametrize("mounts", ["", "garbage\n", "1 2 3 - \n", "24 1 0:21 / / rw - ext4 /dev/sda rw\n"])
@pytest.mark.parametrize("groups", ["garbage\n\n::\n0::/app\n", "0::/app"])
def test_files_that_say_nothing(tmp_path: Path, mounts: str, groups: str) -> None:
    found = machine(tmp_path, groups, mounts, v2("app", 4 * GIB, GIB))
    assert found.available_bytes == 3 * GIB  # where everybody mounts them
    broken = v2("app", "no number", GIB)
    assert machine(tmp_path, groups, mounts, broken).available_bytes == 24 * GIB


def test_kernels_that_do_not_say_what_is_available(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: 4194304 kB\nMemFree: 1048576 kB\n"
        "Active(file): 524288 kB\nInactive(file): 524288 kB\n"
    }
    found = machine(tmp_path, files=files)
    assert (found.available_bytes, found.limit_bytes) == (2 * GIB, 4 * GIB)


def test_a_ulimit_on_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limits.resource, "getrlimit", lambda which: (900000 * 1024 + 2 * GIB, 1 << 40))
    found = machine(tmp_path)
    assert (found.available_bytes, found.address_space_bytes, found.bound_by) == (
        2 * GIB,
        2 * GIB,
        "the limit of address space",
    )


def test_a_kernel_that_never_overcommits(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": f"MemTotal: {32 << 20} kB\nMemAvailable: {24 << 20} kB\nCommitLimit: {20 << 20} kB\n"
        f"Committed_AS: {15 << 20} kB\n",
        "proc/sys/vm/overcommit_memory": "2\n",
    }
    found = machine(tmp_path, files=files)
    assert (found.available_bytes, found.address_space_bytes) == (5 * GIB, 5 * GIB)
    assert machine(tmp_path, files=files | {"proc/sys/vm/overcommit_memory": "1\n"}).address_space_bytes is None


def test_devices_are_handed_through(tmp_path: Path) -> None:
    card = DeviceMemory("CUDA0", 1, 2)
    assert machine_memory((card,), tmp_path).devices == (card,)


def test_macos_counts_what_it_takes_back_without_swapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            500000.
Pages inactive:                          300000.
Pages speculative:                         2000.
Pages throttled:                              0.
Pages wired down:                        150000.
Pages purgeable:                           4000.
"Translation faults":                 812345678.
"""
    monkeypatch.setattr(memory_limits.sys, "platform", "darwin")
    monkeypatch.setattr(memory_limits, "_vm_stat", lambda: answer)
    found = machine_memory(root=tmp_path)
    assert found.available_bytes == 316000 * 16384
    assert found.used_bytes == 0


def test_this_machine() -> None:
    found = machine_memory()
    assert 0 < found.available_bytes <= found.limit_bytes
    assert found.used_bytes > 1 << 20
