"""What this machine is, as far as the build depends on it: CPU, compiler, cores and memory to compile with.

Only looks; decides nothing.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

COMPILE_JOB_BYTES = 1_500_000_000  # the largest translation units of llama.cpp at -O3
UNLIMITED_BYTES = 1 << 60  # cgroup v1 says "no limit" with a number near 2^63


@dataclass(frozen=True, slots=True)
class Cpu:
    """The CPU as the compiler's -march=native sees it."""

    model: str
    architecture: str
    features: frozenset[str]

    @property
    def has_amx(self) -> bool:
        """Whether matrix tiles can be used: the kernel hides the flag where it does not support them."""
        return "amx_int8" in self.features

    @property
    def key(self) -> str:
        """A short name for what code compiled for this CPU depends on."""
        digest = hashlib.sha256(" ".join(sorted(self.features)).encode()).hexdigest()[:16]
        return f"{self.architecture}/{self.model}/{digest}"


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler (with its C sibling) that answers to --version."""

    cc: str
    cxx: str
    family: str  # "gcc", "clang", "apple-clang" or "unknown"
    major: int
    version_line: str


def read_cpu(cpuinfo: str | None = None) -> Cpu:
    """Return the CPU, from /proc/cpuinfo's text where there is one."""
    if cpuinfo is None:
        path = Path("/proc/cpuinfo")
        cpuinfo = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    fields: dict[str, str] = {}
    for line in cpuinfo.split("\n\n", 1)[0].splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    features = fields.get("flags") or fields.get("Features") or _mac_features()
    model = fields.get("model name") or fields.get("CPU part") or platform.processor() or "unknown"
    return Cpu(model, platform.machine(), frozenset(features.split()))


def _mac_features() -> str:
    if platform.system() != "Darwin":
        return ""
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def find_compiler(environ: dict[str, str]) -> Compiler | None:
    """Return the compiler that CC and CXX name, else the usual one on PATH; None where there is none."""
    pairs = (
        [(environ.get("CC") or environ["CXX"], environ.get("CXX") or environ["CC"])]
        if environ.get("CC") or environ.get("CXX")
        else [("gcc", "g++"), ("clang", "clang++"), ("cc", "c++")]
    )
    for cc, cxx in pairs:
        if compiler := _ask_compiler(*_completed(cc, cxx)):
            return compiler
    return None


def _completed(cc: str, cxx: str) -> tuple[str, str]:
    """Fill in the other half where only one of CC and CXX was set: gcc-13 goes with g++-13."""
    if cc != cxx:
        return cc, cxx
    name = re.split(r"[/ ]", cc)[-1]  # "ccache /usr/bin/gcc-13" has both a launcher and a folder
    prefix = cc.removesuffix(name)
    c_name = name.replace("clang++", "clang").replace("g++", "gcc").replace("c++", "cc")
    cxx_name = re.sub(r"^(.*-)?(clang|gcc|cc)(?!\+)(?!lang)", _plus_plus, c_name, count=1)
    return prefix + c_name, prefix + cxx_name


def _plus_plus(match: re.Match[str]) -> str:
    return (match[1] or "") + {"clang": "clang++", "gcc": "g++", "cc": "c++"}[match[2]]


def _ask_compiler(cc: str, cxx: str) -> Compiler | None:
    commands = shlex.split(cc), shlex.split(cxx)
    if not all(command and shutil.which(command[0]) for command in commands):
        return None
    answer = subprocess.run([*commands[1], "--version"], capture_output=True, text=True, check=False)
    if answer.returncode != 0 or not answer.stdout:
        return None
    line = answer.stdout.splitlines()[0].strip()
    return Compiler(cc, cxx, *parse_version(line, cxx), line)


def parse_version(line: str, name: str) -> tuple[str, int]:
    """Return (family, major version) from the first line of --version.

    "g++ (Debian 12.2.0-14) 12.2.0" gives ("gcc", 12); "Debian clang version 19.1.7" gives ("clang", 19).
    """
    if match := re.search(r"Apple (?:clang|LLVM) version (\d+)", line):
        return "apple-clang", int(match[1])
    if match := re.search(r"clang version (\d+)", line):
        return "clang", int(match[1])
    match = re.search(r"\s(\d+)\.\d+(?:\.\d+)?(?:\s+\d+.*)?$", line)
    is_gcc = re.search(r"\bgcc\b|g\+\+|\bGCC\b|c\+\+", f"{line} {Path(name).name}")
    if match and is_gcc:
        return "gcc", int(match[1])
    return "unknown", 0


def compile_jobs(environ: dict[str, str]) -> int:
    """Return how many compilers to run: one a core, as far as memory goes; QWENCTL_BUILD_JOBS overrides."""
    if wanted := environ.get("QWENCTL_BUILD_JOBS"):
        return max(1, int(wanted))
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(n_cores, available_bytes() // COMPILE_JOB_BYTES))


def available_bytes() -> int:
    """Return the memory that this process may still use: the system's, or its cgroup's where that is less."""
    candidates = [UNLIMITED_BYTES]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists() and (match := re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())):
        candidates.append(int(match[1]) * 1024)
    groups = Path("/sys/fs/cgroup")
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            candidates.append(int((groups / limit_name).read_text()) - int((groups / used_name).read_text()))
        except (OSError, ValueError):  # no such cgroup, or "max"
            continue
    return max(0, min(candidates))
