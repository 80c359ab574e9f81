"""llama.cpp's own server, compiled from the sources and with the flags of the wheel that qwenctl uses; once a machine.

    CACHE/llama-server-<key>/llama-server and its libraries          CACHE: ~/.cache/qwenctl/wheels, see native_build

The release comes from pip's index like the wheel (native_build/release.py). Web page, tests and HTTPS are left out, as
in the wheel: they do not touch what is measured.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from native_build.build import COMPILER_HINT, BuildFailedError, diagnose
from native_build.install import WheelCache, read_stamp
from native_build.machine import compile_jobs, find_compiler, read_cpu
from native_build.recipe import VERSION, Recipe, recipes
from native_build.release import download_sdist

_PROGRAM = "llama-server"
_SOURCES = f"llama_cpp_python-{VERSION}/vendor/llama.cpp"
# After the wheel's own options, so that these win. Libraries are found beside the program.
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_TOOLS=ON",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
)


def llama_server() -> Path:
    """Return the program; the first time, compile it, which takes minutes.

    Raises:
        BuildFailedError: no compiler or cmake, the release was not to be had, or the compiler failed.
    """
    environ = {**os.environ, **read_stamp().get("choices", {})}
    compiler = find_compiler(environ)
    if compiler is None or not shutil.which("cmake"):
        raise BuildFailedError("llama-server needs cmake and a C++ compiler", COMPILER_HINT)
    cache = WheelCache.of_user(environ)
    wanted = [one for one in recipes(read_cpu(), compiler, environ) if not cache.distrusts(one)]
    recipe = next((one for one in wanted if one.key == read_stamp().get("key")), wanted[0])
    program = cache.folder / f"{_PROGRAM}-{recipe.key}" / _PROGRAM
    if not program.exists():
        print(f"compiling llama.cpp's server {VERSION} for this machine, once: some minutes", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="qwenctl-llama-server-") as scratch:
            environment = recipe.environment(environ, compiler, compile_jobs(environ))
            _build(recipe, environment, Path(scratch), program.parent)
    return program


def _build(recipe: Recipe, environment: dict[str, str], scratch: Path, folder: Path) -> None:
    """Compile in `scratch`; `folder` appears when everything is in it."""
    with tarfile.open(download_sdist(scratch, environment)) as archive:
        members = [one for one in archive if one.name.startswith(f"{_SOURCES}/")]
        archive.extractall(scratch, members, filter="data")
    built = scratch / "build"
    log = folder.with_name(folder.name + ".log")
    commands = (
        ["cmake", "-S", str(scratch / _SOURCES), "-B", str(built), *recipe.cmake_args, *_OPTIONS],
        ["cmake", "--build", str(built), "--target", _PROGRAM, "--parallel", environment["CMAKE_BUILD_PARALLEL_LEVEL"]],
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        for command in commands:
            output.write(f"$ {shlex.join(command)}\n".encode())
            output.flush()
            code = subprocess.run(command, env=environment, stdout=output, stderr=output, check=False).returncode
            if code != 0:
                lines, hint = diagnose(log.read_text(encoding="utf-8", errors="replace"))
                raise BuildFailedError("\n".join(lines), hint, log)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for path in sorted((built / "bin").iterdir()):
        if path.name == _PROGRAM or path.name.startswith("lib"):
            shutil.copy2(path, partial / path.name, follow_symlinks=False)
    partial.rename(folder)


if __name__ == "__main__":
    try:
        print(llama_server())
    except BuildFailedError as error:
        sys.exit(f"error: {error}\nwhat to do: {error.hint}" + (f"\nfull log: {error.log}" if error.log else ""))
