"""What memory this process may use: the machine's, its control groups' (version 1 and 2, with all parents), its ulimit.

A control group counts page cache as used, yet the kernel drops clean file pages before it refuses anything. So what a
group has left is limit - (usage - file pages on its LRU lists); pages that are locked are on neither of those lists.
The same holds for MemAvailable. Sources: cgroups(7), the kernel's cgroup-v1/memory.rst and cgroup-v2.rst, proc(5).

    version 2   memory.max, memory.high ("max": none), memory.current, memory.stat: inactive_file, active_file
    version 1   memory.limit_in_bytes (9223372036854771712: none), memory.usage_in_bytes, memory.stat: total_…_file
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from qwenctl.moe.machine_memory import DeviceMemory, MachineMemory

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_NO_LIMIT = 1 << 60  # version 1 writes the largest multiple of a page that 63 bits hold
_KIB = 1024


@dataclass(frozen=True, slots=True)
class _Group:
    """A control group with a limit."""

    folder: Path
    limit_bytes: int
    left_bytes: int


def machine_memory(devices: tuple[DeviceMemory, ...] = (), root: Path = Path("/")) -> MachineMemory:
    """Return what this process may use now.

    Args:
        devices: as ggml tells their memory.
        root: where /proc and /sys are looked for.
    """
    total, available = _system_memory(root)
    groups = list(_limited_groups(root))
    address_space = _address_space_left(root)
    left, bound_by, shared = available, "this machine", True
    for group in groups:
        if group.left_bytes < left:
            left, bound_by, shared = group.left_bytes, f"the control group {_shown(group.folder, root)}", False
    if address_space is not None and address_space < left:
        left, bound_by, shared = address_space, "the limit of address space", False
    return MachineMemory(
        available_bytes=left,
        used_bytes=_used_bytes(root),
        limit_bytes=min([total, *(group.limit_bytes for group in groups)]),
        bound_by=bound_by,
        shared=shared,
        address_space_bytes=address_space,
        devices=devices,
    )


def _system_memory(root: Path) -> tuple[int, int]:
    """Return (total, available) bytes of the machine."""
    facts = _kilobytes(root / "proc/meminfo")
    if "MemTotal" in facts:
        old = facts.get("MemFree", 0) + facts.get("Active(file)", 0) + facts.get("Inactive(file)", 0)  # before 3.14
        return facts["MemTotal"], min(facts.get("MemAvailable", old), facts["MemTotal"])
    if sys.platform == "win32":
        return _windows_memory()
    if sys.platform == "darwin":
        return _sysconf_bytes("SC_PHYS_PAGES"), _macos_available(_vm_stat())
    return _sysconf_bytes("SC_PHYS_PAGES"), _sysconf_bytes("SC_AVPHYS_PAGES")


def _used_bytes(root: Path) -> int:
    """Return what this process holds that no file stands behind; 0 where the system does not say."""
    facts = _kilobytes(root / "proc/self/status")
    return facts.get("RssAnon", 0) + facts.get("RssShmem", 0)


def _address_space_left(root: Path) -> int | None:
    """Return the bytes that this process may still map, None where nobody counts them.

    RLIMIT_AS counts all of them; a kernel that never overcommits (vm.overcommit_memory = 2) counts what is private and
    writable, over all processes.
    """
    left = []
    if _number(root / "proc/sys/vm/overcommit_memory") == 2:
        facts = _kilobytes(root / "proc/meminfo")
        left.append(facts.get("CommitLimit", 0) - facts.get("Committed_AS", 0))
    if resource is not None:
        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
        if soft != resource.RLIM_INFINITY:
            left.append(soft - _kilobytes(root / "proc/self/status").get("VmSize", 0))
    return max(0, min(left)) if left else None


def _limited_groups(root: Path) -> Iterator[_Group]:
    """Every control group above this process that has a limit, from the outermost in, both versions."""
    for mount, inner in _memory_groups(root):
        parts = [part for part in PurePosixPath(inner).parts if part not in ("/", "..")]
        for depth in range(len(parts) + 1):
            folder = mount.joinpath(*parts[:depth])
            group = _version_2(folder) or _version_1(folder)
            if group is not None:
                yield group


def _memory_groups(root: Path) -> Iterator[tuple[Path, str]]:
    """Pairs of a mounted hierarchy and this process's path below the mount.

    /proc/self/cgroup has paths from the hierarchy's root; a container may see only a part of it mounted
    (mountinfo's fourth field), or be in a namespace of its own, where paths above start with "/..".
    """
    mounts = list(_cgroup_mounts(root))
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        wants_memory = "memory" in controllers.split(",")
        if not wants_memory and not (number == "0" and not controllers):
            continue
        for version, mounted_from, folder in mounts:
            if version == (1 if wants_memory else 2):
                yield folder, _below(path, mounted_from)


def _cgroup_mounts(root: Path) -> Iterator[tuple[int, str, Path]]:
    """Triples of version, root inside the hierarchy and folder, of each mounted hierarchy that may limit memory."""
    found = False
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        folder = root / _unescaped(fields[4]).lstrip("/")
        if kind[0] == "cgroup2":
            found = True
            yield 2, _unescaped(fields[3]), folder
        elif kind[0] == "cgroup" and "memory" in kind[2].split(","):
            found = True
            yield 1, _unescaped(fields[3]), folder
    if not found:  # no mountinfo to be read: where everybody mounts them
        yield 2, "/", root / "sys/fs/cgroup"
        yield 1, "/", root / "sys/fs/cgroup/memory"


def _below(path: str, mounted_from: str) -> str:
    """Return `path` as seen from the mount; the mount itself where it lies outside."""
    if mounted_from == "/":
        return path
    try:
        return str(PurePosixPath(path).relative_to(mounted_from))
    except ValueError:
        return ""


def _version_2(folder: Path) -> _Group | None:
    limits = [number for name in ("memory.max", "memory.high") if (number := _number(folder / name)) is not None]
    usage = _number(folder / "memory.current")
    if not limits or usage is None:
        return None
    return _group(folder, min(limits), usage, "")


def _version_1(folder: Path) -> _Group | None:
    limit, usage = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
    if limit is None or usage is None:
        return None
    # Groups above the mount are not to be seen, but their limit is told.
    limit = min(limit, _statistics(folder).get("hierarchical_memory_limit", limit))
    return _group(folder, limit, usage, "total_")


def _group(folder: Path, limit: int, usage: int, prefix: str) -> _Group | None:
    if limit >= _NO_LIMIT:
        return None
    statistics = _statistics(folder)
    cache = sum(statistics.get(f"{prefix}{name}_file", 0) for name in ("active", "inactive"))
    return _Group(folder, limit, max(0, limit - max(0, usage - cache)))


def _statistics(folder: Path) -> dict[str, int]:
    pairs = (line.split() for line in _lines(folder / "memory.stat"))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(path: Path) -> int | None:
    """Return the number in a file; None for "max", for nonsense and without the file."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def _kilobytes(path: Path) -> dict[str, int]:
    """Return the sizes of a file of lines like `MemTotal:  24684084 kB`, in bytes."""
    found = (re.fullmatch(r"([^:]+):\s+(\d+) kB", line.strip()) for line in _lines(path))
    return {match.group(1): int(match.group(2)) * _KIB for match in found if match}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _unescaped(text: str) -> str:
    """Undo mountinfo's octal escapes of blanks, tabs, newlines and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def _shown(folder: Path, root: Path) -> str:
    return f"/{folder.relative_to(root)}"


def _sysconf_bytes(name: str) -> int:
    try:
        return max(0, os.sysconf(name)) * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0


def _vm_stat() -> str:
    try:
        return subprocess.run(["/usr/bin/vm_stat"], capture_output=True, text=True, check=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _macos_available(vm_stat: str) -> int:
    """Return the bytes of pages that are free, or that macOS takes back without swapping."""
    page = re.search(r"page size of (\d+) bytes", vm_stat)
    names = ("free", "inactive", "speculative", "purgeable")
    counts = (re.search(rf"^Pages {name}:\s+(\d+)\.", vm_stat, re.MULTILINE) for name in names)
    return sum(int(count.group(1)) for count in counts if count) * (int(page.group(1)) if page else 4096)


class _MemoryStatusEx(ctypes.Structure):
    """MEMORYSTATUSEX of sysinfoapi.h."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in ("total", "available", "page_total", "page_available")),
        *((name, ctypes.c_uint64) for name in ("virtual_total", "virtual_available", "extended_available")),
    )


def _windows_memory() -> tuple[int, int]:
    status = _MemoryStatusEx(length=ctypes.sizeof(_MemoryStatusEx))
    library = getattr(ctypes, "windll")  # noqa: B009  only there on Windows
    if not library.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return 0, 0
    return int(status.total), int(status.available)
