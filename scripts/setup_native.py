"""Put llama-cpp-python, compiled for this machine and tried, into the virtual environment that runs this script.

    .venv/bin/python scripts/setup_native.py

Does nothing when the right build is already there. Compiled wheels are kept in ~/.cache/qwenctl/wheels (XDG_CACHE_HOME
is honoured), keyed by version, flags, compiler and CPU, so only the first clone on a machine compiles. CMAKE_ARGS
(-DGGML_CUDA=ON, -DGGML_VULKAN=ON …), CC, CXX, CFLAGS, CXXFLAGS and LDFLAGS are honoured, and remembered in .venv until
one of them is set again, to the empty string even. QWENCTL_BUILD_JOBS sets the number of compilers at once.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from native_build.build import COMPILER_HINT, BuildFailedError, build_wheel
from native_build.headers import headers_folder, keep_headers, user_headers
from native_build.install import (
    UntrustedLibraryError,
    WheelCache,
    install,
    read_stamp,
    smoke_test_wheel,
    uninstall,
)
from native_build.machine import Compiler, available_bytes, compile_jobs, find_compiler, read_cpu
from native_build.recipe import VERSION, Recipe, recipes
from native_build.release import download_sdist

CHOICES = ("CMAKE_ARGS", "CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS")  # what a user decides about the build
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"


def say(text: str) -> None:
    """Tell the user something."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Install what is missing and return the exit code."""
    if sys.prefix == sys.base_prefix:
        say(
            "run this with the virtual environment's Python: .venv/bin/python scripts/setup_native.py (or `make setup`)"
        )
        return 2
    stamp = read_stamp()
    given = {name: os.environ[name] for name in CHOICES if name in os.environ}
    choices = given or stamp.get("choices", {})
    environ = {name: value for name, value in os.environ.items() if name not in CHOICES} | choices
    compiler = find_compiler(environ)
    if compiler is None:
        if not given and stamp.get("key", "").startswith(f"{VERSION}-"):
            return 0  # installed and tried, and nothing here could build another
        named = " ".join(f"{name}={environ[name]}" for name in ("CC", "CXX") if environ.get(name))
        say(f"error: llama-cpp-python {VERSION} is compiled here, but there is no compiler {named}".rstrip())
        say(f"what to do: {COMPILER_HINT}")
        return 1
    cache = WheelCache.of_user(environ)
    try:
        wanted = recipes(read_cpu(), compiler, environ)
        if stamp.get("key") in [recipe.key for recipe in wanted]:
            return 0
        with one_at_a_time(cache.folder):
            return set_up(wanted, compiler, cache, choices, environ)
    except ValueError as error:
        say(f"error: {error} (in CMAKE_ARGS or QWENCTL_BUILD_JOBS)")
    except BuildFailedError as error:
        say(f"error: llama-cpp-python {VERSION} was not built:\n  " + str(error).replace("\n", "\n  "))
        say(f"what to do: {error.hint}" + (f"\nfull log: {error.log}" if error.log else ""))
    except subprocess.CalledProcessError as error:
        say(f"error: pip failed: {' '.join(error.cmd)}")
    return 1


def set_up(
    wanted: list[Recipe], compiler: Compiler, cache: WheelCache, choices: dict[str, str], environ: dict[str, str]
) -> int:
    """Install the first of the recipes whose library can be trusted."""
    for recipe in wanted:
        if reason := cache.distrusts(recipe):
            say(f"not built with these flags, as before: {reason} ({cache.folder / recipe.key})")
            continue
        try:
            wheel = cache.find(recipe) or build_and_try(recipe, compiler, cache, environ)
            findings = install(wheel, recipe, choices)
        except UntrustedLibraryError as error:
            say(f"the library that {compiler.version_line} made failed its smoke test: {error}")
            if error.lasting:
                cache.distrust(recipe, str(error))
            continue
        say(f"llama-cpp-python {VERSION} installed and tried (AMX: {'yes' if findings['amx'] else 'no'}): {wheel}")
        have_headers(environ)
        return 0
    uninstall()
    say("error: no build of llama-cpp-python passed its smoke test, so none is installed")
    say("what to do: try another compiler, for example `CC=clang-19 CXX=clang++-19 make setup`")
    return 1


def build_and_try(recipe: Recipe, compiler: Compiler, cache: WheelCache, environ: dict[str, str]) -> Path:
    """Build a wheel, try it, and return it from the cache."""
    n_jobs = compile_jobs(environ)
    say(f"compiling llama-cpp-python {VERSION} for this machine, once: some minutes with {n_jobs} jobs")
    say(f"  {compiler.version_line}; {' '.join((*recipe.compiler_flags, *recipe.cmake_args))}")
    if available_bytes() < 2_000_000_000:
        say("  memory is short here: should the compiler be killed, close other programs")
    log = cache.folder / f"{recipe.key}.log"
    with tempfile.TemporaryDirectory(prefix="qwenctl-build-") as folder:
        sdist = download_sdist(Path(folder), environ)
        keep_headers(sdist, headers_folder(environ))
        wheel = build_wheel(recipe, compiler, environ, n_jobs, CONSTRAINTS, sdist, Path(folder), log)
        smoke_test_wheel(wheel)
        return cache.keep(recipe, wheel)


def have_headers(environ: dict[str, str]) -> None:
    """See to the release's headers, which `make check` reads; a wheel from an older cache came without them."""
    try:
        user_headers(environ)
    except BuildFailedError as error:
        say(f"its headers were not fetched, which only `make check` misses: {str(error).splitlines()[-1]}")


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Let a second set-up on the same machine wait for the first, and find its wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{time.strftime('%H:%M')} waiting for another set-up to finish")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
