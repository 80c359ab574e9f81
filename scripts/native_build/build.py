"""Run the build: pip compiles the pinned source, a status line tells how far it is, a log file keeps the rest."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .machine import Compiler
from .recipe import SDIST_SHA256, VERSION, Recipe

# The wheel needs llama_cpp/ alone; CMake's own install rules add a second copy of everything, and each library comes
# under three names.
EXCLUDED_FROM_WHEEL = ("bin/**", "include/**", "lib/**", "llama_cpp/lib/*.so.*.*")

COMPILER_HINT = (
    "install a C++ compiler: `apt-get install build-essential` (Debian, Ubuntu), `dnf install gcc-c++ make` (Fedora), "
    "`pacman -S base-devel` (Arch), `xcode-select --install` (macOS)"
)

# What the log says, and what to do about it; the first that matches.
_CAUSES = (
    (
        r"Killed signal terminated program|fatal error: Killed|out of memory|bad_alloc",
        "the compiler ran out of memory: try `QWENCTL_BUILD_JOBS=1 make setup`",
    ),
    (r"No space left on device", "the disk is full: the build needs about 1 GB in TMPDIR"),
    (
        r"DO NOT MATCH THE HASHES",
        "the package index served other bytes than the release that is pinned here: do not build them",
    ),
    (
        r"No matching distribution|name resolution|ConnectionError|Max retries exceeded|Could not find a version",
        "the package index was not reached, or lacks the package: check the network and pip's configuration",
    ),
    (
        r"CMAKE_C(XX)?_COMPILER|not able to compile a simple test program|cc1plus.*No such file|'?ld'? .*not found",
        COMPILER_HINT,
    ),
    (
        r"nvcc|CUDA",
        "install the CUDA toolkit with cuBLAS (nvcc on PATH); without a GPU here, add -DCMAKE_CUDA_ARCHITECTURES=89",
    ),
    (
        r"Vulkan|glslc|[Ss][Pp][Ii][Rr]-?[Vv]",
        "`apt-get install libvulkan-dev glslc spirv-headers`, or leave -DGGML_VULKAN=ON out of CMAKE_ARGS",
    ),
    (r"hip(cc|config)|ROCm", "install ROCm's HIP SDK, or leave -DGGML_HIP=ON out of CMAKE_ARGS"),
)

_TELLING = re.compile(r"\berror\b|\bERROR\b|fatal|CMake Error|FAILED|Killed|No space left")
_BOILERPLATE = re.compile(
    r"subprocess-exited-with-error|note: This error|Building wheel for|Failed building wheel|Failed to build one"
    r"|-Werror|_error\.|/g?\+\+ |/g?cc |/clang"
)


class BuildFailedError(Exception):
    """No wheel came out: what the log says, and what to do."""

    def __init__(self, message: str, hint: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        self.log = log


@dataclass(slots=True)
class StatusLine:
    """One line on stderr: rewritten every second on a terminal, printed once a minute elsewhere."""

    started_s: float = field(default_factory=time.monotonic)
    _printed_s: float = float("-inf")

    def show(self, text: str) -> None:
        """Show `text` with the time since the start."""
        elapsed_s = time.monotonic() - self.started_s
        line = f"{text}, {int(elapsed_s) // 60}:{int(elapsed_s) % 60:02}"
        if sys.stderr.isatty():
            print(f"\r\x1b[K{line[:110]}", end="", file=sys.stderr, flush=True)
        elif elapsed_s - self._printed_s >= 60:
            print(line, file=sys.stderr, flush=True)
            self._printed_s = elapsed_s

    def close(self) -> None:
        """End the line."""
        if sys.stderr.isatty():
            print(file=sys.stderr)


def build_wheel(
    recipe: Recipe,
    compiler: Compiler,
    environ: Mapping[str, str],
    n_jobs: int,
    constraints: Path,
    sdist: Path,
    folder: Path,
    log: Path,
) -> Path:
    """Build the wheel of `sdist` into `folder` and return its path; everything that is printed goes to `log`.

    Raises:
        BuildFailedError: pip failed, for the reason in the log.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(requirement_line(sdist))
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-input", "--disable-pip-version-check"]
    # pip's own cache knows nothing of CMAKE_ARGS and would hand out a wheel with other flags.
    command += ["--no-cache-dir", "--no-deps", "--no-binary", "llama-cpp-python", "--require-hashes"]
    command += ["--build-constraint", str(constraints), "--requirement", str(requirements)]
    command += ["--wheel-dir", str(folder)]
    environment = recipe.environment(environ, compiler, n_jobs)
    status = StatusLine()
    try:
        with log.open("wb") as output:
            names = ("CMAKE_ARGS", "CFLAGS", "CXXFLAGS", "CC", "CXX", "CMAKE_BUILD_PARALLEL_LEVEL")
            output.write("".join(f"{name}={environment[name]}\n" for name in names).encode())
            output.flush()
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
            exit_code = _watch(process, log, status)
    finally:
        status.close()
    wheels = sorted(folder.glob("llama_cpp_python-*.whl"))
    if exit_code != 0 or len(wheels) != 1:
        lines, hint = diagnose(log.read_text(encoding="utf-8", errors="replace"))
        raise BuildFailedError("\n".join(lines), hint, log)
    return wheels[0]


def requirement_line(sdist: Path) -> str:
    """Return what pip is to build. Settings given on the command line would not reach a requirement from a file."""
    exclude = f'--config-settings "wheel.exclude={";".join(EXCLUDED_FROM_WHEEL)}"'
    return f"llama-cpp-python @ {sdist.as_uri()} --hash=sha256:{SDIST_SHA256} {exclude}\n"


def _watch(process: subprocess.Popen[bytes], log: Path, status: StatusLine) -> int:
    position, step = 0, "fetching what builds it"
    try:
        while process.poll() is None:
            with log.open("rb") as file:
                file.seek(position)
                new = file.read().decode(errors="replace")
                position = file.tell()
            if counts := re.findall(r"\[(\d+)/(\d+)\]", new):
                step = f"compiling {counts[-1][0]} of {counts[-1][1]}"
            elif "Configuring CMake" in new:
                step = "configuring"
            status.show(f"llama-cpp-python {VERSION}: {step}")
            time.sleep(0.5)
    except BaseException:
        process.terminate()
        raise
    return process.returncode


def diagnose(log: str) -> tuple[list[str], str]:
    """Return the lines of a failed build's log that tell why it failed, and what to do about it."""
    lines = [line.strip()[:300] for line in log.splitlines() if line.strip()]
    telling: list[str] = []
    for position, line in enumerate(lines):
        if _TELLING.search(line) and not _BOILERPLATE.search(line):
            n_more = 2 if line.startswith("CMake Error") else 0  # CMake says what is wrong below
            telling += lines[position : position + 1 + n_more]
    telling = list(dict.fromkeys(telling)) or lines
    for pattern, hint in _CAUSES:
        if any(re.search(pattern, line) for line in telling[-40:]):
            return telling[-8:], hint
    return telling[-8:], f"the log tells more. If it speaks of the compiler: {COMPILER_HINT}"
