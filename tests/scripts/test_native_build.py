"""The set-up's decisions, and its smoke test on the installed library and on broken ones. Nothing is compiled here."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.native_build import install
from scripts.native_build.build import COMPILER_HINT, diagnose
from scripts.native_build.machine import Compiler, Cpu, _completed, parse_version, read_cpu
from scripts.native_build.recipe import KEEP_TILE_STORES, SDIST_SHA256, VERSION, WITHOUT_AMX, recipes

ROOT = Path(__file__).resolve().parents[2]

GCC_12 = Compiler("gcc", "g++", "gcc", 12, "g++ (Debian 12.2.0-14+deb12u1) 12.2.0")
GCC_13 = replace(GCC_12, major=13, version_line="g++ (Debian 13.3.0-1) 13.3.0")
CLANG_19 = Compiler("clang", "clang++", "clang", 19, "Debian clang version 19.1.7")
WITH_AMX = Cpu("Xeon", "x86_64", frozenset({"avx2", "amx_tile", "amx_int8"}))
PLAIN = Cpu("Core", "x86_64", frozenset({"avx2"}))


@pytest.mark.parametrize(
    ("line", "family", "major"),
    [
        ("g++ (Debian 12.2.0-14+deb12u1) 12.2.0", "gcc", 12),
        ("gcc-13 (Ubuntu 13.2.0-23ubuntu4) 13.2.0", "gcc", 13),
        ("g++ (GCC) 11.4.1 20231218 (Red Hat 11.4.1-3)", "gcc", 11),
        ("c++ (SUSE Linux) 14.2.1 20241007 [revision 4af44f2cf7d281f3e4f3957efce10e8b2ccb2ad3]", "gcc", 14),
        ("Debian clang version 19.1.7 (3~deb12u1)", "clang", 19),
        ("Apple clang version 17.0.0 (clang-1700.0.13.3)", "apple-clang", 17),
        ("some other compiler", "unknown", 0),
    ],
)
def test_compiler_versions(line: str, family: str, major: int) -> None:
    assert parse_version(line, "c++") == (family, major)


@pytest.mark.parametrize(
    ("given", "cc", "cxx"),
    [
        ("gcc-13", "gcc-13", "g++-13"),
        ("g++-13", "gcc-13", "g++-13"),
        ("/opt/bin/clang++-19", "/opt/bin/clang-19", "/opt/bin/clang++-19"),
        ("clang", "clang", "clang++"),
        ("x86_64-linux-gnu-gcc", "x86_64-linux-gnu-gcc", "x86_64-linux-gnu-g++"),
        ("cc", "cc", "c++"),
        ("ccache /usr/bin/gcc", "ccache /usr/bin/gcc", "ccache /usr/bin/g++"),
    ],
)
def test_the_other_half_of_a_compiler(given: str, cc: str, cxx: str) -> None:
    assert _completed(given, given) == (cc, cxx)


def test_old_gcc_keeps_tile_stores_and_falls_back_to_no_amx() -> None:
    first, second = recipes(WITH_AMX, GCC_12, {})
    assert (first.compiler_flags, first.uses_amx) == (KEEP_TILE_STORES, True)
    assert (second.compiler_flags, second.uses_amx) == (WITHOUT_AMX, False)


@pytest.mark.parametrize("compiler", [GCC_13, CLANG_19])
def test_newer_compilers_need_nothing(compiler: Compiler) -> None:
    assert recipes(WITH_AMX, compiler, {})[0].compiler_flags == ()


def test_a_cpu_without_amx_has_one_recipe() -> None:
    assert [recipe.compiler_flags for recipe in recipes(PLAIN, GCC_12, {})] == [()]


def test_users_arguments_come_last_and_keep_their_spaces() -> None:
    user = "-DGGML_CUDA=ON '-DCMAKE_CXX_FLAGS=-O2 -g' -DCMAKE_CUDA_ARCHITECTURES=86;89"
    recipe = recipes(WITH_AMX, GCC_12, {"CMAKE_ARGS": user})[0]
    environment = recipe.environment({"CXXFLAGS": "-pipe"}, GCC_12, 2)
    assert shlex.split(environment["CMAKE_ARGS"])[-3:] == [
        "-DGGML_CUDA=ON",
        "-DCMAKE_CXX_FLAGS=-O2 -g -fno-tree-dse -fno-dse",  # it would hide CXXFLAGS
        "-DCMAKE_CUDA_ARCHITECTURES=86;89",
    ]
    assert environment["CXXFLAGS"] == "-pipe -fno-tree-dse -fno-dse"
    assert environment["CFLAGS"] == "-fno-tree-dse -fno-dse"


def test_the_key_follows_all_that_decides_the_wheel() -> None:
    keys = {
        recipes(cpu, compiler, environ)[0].key
        for cpu, compiler, environ in (
            (PLAIN, GCC_12, {}),
            (PLAIN, GCC_13, {}),
            (PLAIN, GCC_12, {"CMAKE_ARGS": "-DGGML_VULKAN=ON"}),
            (PLAIN, GCC_12, {"CFLAGS": "-O1"}),
            (replace(PLAIN, features=frozenset({"avx2", "avx512f"})), GCC_12, {}),
        )
    }
    assert len(keys) == 5
    assert recipes(PLAIN, GCC_12, {"PATH": "elsewhere"})[0].key in keys


def test_cpu_of_cpuinfo() -> None:
    text = "processor\t: 0\nmodel name\t: Xeon\nflags\t\t: avx2 amx_int8\n\nprocessor\t: 1\nflags\t: none\n"
    cpu = read_cpu(text)
    assert (cpu.model, cpu.has_amx) == ("Xeon", True)


@pytest.mark.parametrize(
    ("log", "told", "hint"),
    [
        ("[1/87] g++ -c a.cpp\ng++: fatal error: Killed signal terminated program cc1plus", "Killed", "JOBS=1"),
        ("  ninja: x\ncc1plus: error: No space left on device", "No space", "disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "HASHES", "do not build"),
        ("CMake Error: CMAKE_CXX_COMPILER not set, after EnableLanguage", "CMAKE_CXX", COMPILER_HINT),
        ("CMake Error: Could not find nvcc, please set CUDAToolkit_ROOT", "nvcc", "CUDA toolkit"),
        ("CMake Error: Could NOT find Vulkan (missing: glslc)", "Vulkan", "libvulkan-dev"),
        ("a.cpp:1:1: error: 'x' was not declared", "not declared", "build-essential"),
    ],
)
def test_a_failed_build_says_what_to_do(log: str, told: str, hint: str) -> None:
    lines, advice = diagnose("warning: something\n" + log)
    assert told in "\n".join(lines)
    assert hint in advice


def test_the_release_is_pinned_everywhere_alike() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"llama-cpp-python=={VERSION}" in project["dependencies"]
    assert f"llama-cpp-python=={VERSION}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert len(SDIST_SHA256) == 64


def _installed_libraries() -> Path:
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "lib"


def test_the_installed_library_passes_its_smoke_test() -> None:
    findings = install.smoke_test(_installed_libraries())
    assert read_cpu().has_amx or not findings["amx"]
    assert findings["buffer_types"]  # at least one layout besides the plain one was tried


def test_missing_and_broken_libraries_are_not_trusted(tmp_path: Path) -> None:
    with pytest.raises(install.UntrustedLibraryError, match="missing"):
        install.smoke_test(tmp_path)
    for path in _installed_libraries().glob("*.so*"):
        shutil.copy(path, tmp_path / path.name)
    (tmp_path / "libggml-rpc.so").write_bytes(b"not a library")
    with pytest.raises(install.UntrustedLibraryError):
        install.smoke_test(tmp_path)


def test_equal_libraries_become_one_file(tmp_path: Path) -> None:
    for name, content in (("libx.so", b"same"), ("libx.so.0", b"same"), ("liby.so", b"one"), ("liby.so.0", b"two")):
        (tmp_path / name).write_bytes(content)
    install.share_copies(tmp_path)
    assert (tmp_path / "libx.so").samefile(tmp_path / "libx.so.0")
    assert not (tmp_path / "liby.so").samefile(tmp_path / "liby.so.0")
    assert (tmp_path / "liby.so.0").read_bytes() == b"two"


def test_the_cache_forgets_a_wheel_it_distrusts(tmp_path: Path) -> None:
    cache = install.WheelCache.of_user({"XDG_CACHE_HOME": str(tmp_path / "cache")})
    recipe = recipes(PLAIN, GCC_12, {})[0]
    wheel = tmp_path / "llama_cpp_python-0-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    assert cache.find(recipe) is None
    assert cache.keep(recipe, wheel) == cache.find(recipe)
    cache.distrust(recipe, "it died of SIGILL")
    assert (cache.find(recipe), cache.distrusts(recipe)) == (None, "it died of SIGILL")
