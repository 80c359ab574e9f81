"""How llama-cpp-python is to be built for a machine: version, CMake options, compiler flags, and the key of the result.

Pure functions on values. Runs nothing.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .machine import Compiler, Cpu

VERSION = "0.3.36"  # pyproject.toml pins the same: a test holds them together
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"

RECIPE_VERSION = 1  # raise it when this file or the CMake file beside it changes what is built

CMAKE_FILE = Path(__file__).with_name("leave_out_common.cmake")

# Options of llama.cpp and of llama-cpp-python's own CMakeLists.txt. RPC is how several GPUs and hosts are reached, and
# how they are tested without one. What is off is not used here: programs, tests, image input, HTTPS downloads.
CMAKE_OPTIONS = (
    "-DGGML_RPC=ON",
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DGGML_CCACHE=OFF",
)

# GCC < 13 takes the stores that set up a tile configuration for dead and drops them: the library dies with SIGILL at
# its first tile instruction. Source: llama.cpp's pull request #26954; these two passes are the ones that do it.
KEEP_TILE_STORES = ("-fno-tree-dse", "-fno-dse")

# All three are needed: ggml asks for __AMX_INT8__ only, and fails to compile when just the tiles are off.
WITHOUT_AMX = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that decides what the built wheel holds."""

    cmake_args: tuple[str, ...]  # without CMAKE_FILE, whose path differs between checkouts
    compiler_flags: tuple[str, ...]  # of ours, added to C and C++ alike
    user_flags: tuple[tuple[str, str], ...]  # CFLAGS and the like, from the environment
    compiler: str
    cpu: str
    uses_amx: bool
    version: str = VERSION
    recipe_version: int = RECIPE_VERSION

    @property
    def key(self) -> str:
        """A name for the wheel in the cache."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.version}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def environment(self, base: Mapping[str, str], compiler: Compiler, n_jobs: int) -> dict[str, str]:
        """Return the build's environment. Compiler flags go through CFLAGS and CXXFLAGS: no quoting to survive."""
        ours = " ".join(self.compiler_flags)
        environment = dict(base) | {
            "CMAKE_ARGS": shlex.join((f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={CMAKE_FILE}", *self.cmake_args)),
            "CMAKE_BUILD_PARALLEL_LEVEL": str(n_jobs),
            "CC": compiler.cc,
            "CXX": compiler.cxx,
        }
        for name in ("CFLAGS", "CXXFLAGS"):
            environment[name] = " ".join(filter(None, (base.get(name), ours)))
        return environment


def recipes(cpu: Cpu, compiler: Compiler, environ: Mapping[str, str]) -> list[Recipe]:
    """Return what to try, best first: as the machine offers, then without AMX where it has AMX.

    Raises:
        ValueError: CMAKE_ARGS has an unclosed quote.
    """
    user_args = tuple(shlex.split(environ.get("CMAKE_ARGS", "")))
    uses_amx = cpu.has_amx and not any(flag in arg for flag in WITHOUT_AMX for arg in user_args)
    flag_sets: list[tuple[tuple[str, ...], bool]] = [(amx_flags(compiler) if uses_amx else (), uses_amx)]
    if uses_amx:
        flag_sets.append((WITHOUT_AMX, False))
    user_flags = tuple((name, environ[name]) for name in ("CFLAGS", "CXXFLAGS", "LDFLAGS") if environ.get(name))
    return [
        Recipe(
            cmake_args=merge_compiler_flags((*CMAKE_OPTIONS, *user_args), flags),
            compiler_flags=flags,
            user_flags=user_flags,
            compiler=compiler.version_line,
            cpu=cpu.key,
            uses_amx=with_amx,
        )
        for flags, with_amx in flag_sets
    ]


def amx_flags(compiler: Compiler) -> tuple[str, ...]:
    """Return what this compiler needs to get AMX right: nothing for clang ≥ 19 and GCC ≥ 13."""
    return KEEP_TILE_STORES if compiler.family == "gcc" and compiler.major < 13 else ()


def merge_compiler_flags(cmake_args: tuple[str, ...], flags: tuple[str, ...]) -> tuple[str, ...]:
    """Add `flags` to a user's own -DCMAKE_C_FLAGS and -DCMAKE_CXX_FLAGS, which would hide CFLAGS and CXXFLAGS."""
    prefixes = ("-DCMAKE_C_FLAGS=", "-DCMAKE_CXX_FLAGS=", "-DCMAKE_C_FLAGS:", "-DCMAKE_CXX_FLAGS:")
    return tuple(" ".join((arg, *flags)) if arg.startswith(prefixes) else arg for arg in cmake_args)
