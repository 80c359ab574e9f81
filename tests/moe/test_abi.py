"""ggml_abi.py against the installed library, against the release's headers, and against builds that are not ours."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quant.ggml_types import GGML_TYPES, GgmlType
from quant.libggml import load_libggml
from qwenctl.moe import abi_check, abi_probe, ggml_abi
from qwenctl.moe.abi_check import UnknownBuild, check_abi
from scripts.native_build.headers import headers_folder, read_headers
from scripts.native_build.machine import find_compiler

ROOT = Path(__file__).resolve().parents[2]
ENVIRON = dict(os.environ)  # the user's: tests get a cache folder of their own
CAN_GENERATE = read_headers(headers_folder(ENVIRON)) is not None and find_compiler(ENVIRON) is not None


@pytest.fixture(scope="module")
def lib_base() -> ctypes.CDLL:
    return ctypes.CDLL(str(load_libggml().path))


def _refusal(lib_base: ctypes.CDLL) -> str:
    with pytest.raises(UnknownBuild) as caught:
        check_abi(lib_base)
    message = str(caught.value)
    assert "\n" not in message
    assert f"of llama-cpp-python {ggml_abi.RELEASE}" in message
    return message


def test_the_installed_build_is_known(lib_base: ctypes.CDLL) -> None:
    check_abi(lib_base)


def test_another_version_is_refused_before_anything_is_probed(
    lib_base: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = ggml_abi.GGML_VERSION
    monkeypatch.setattr(ggml_abi, "GGML_VERSION", "0.9.9")
    for name in ("_number_disagreements", "_size_disagreements", "object_disagreements", "slot_disagreements"):
        monkeypatch.setattr(abi_check, name, lambda _: pytest.fail("probed a foreign build"))
    message = _refusal(lib_base)
    assert installed in message
    assert "0.9.9" in message


def test_another_commit_is_refused(lib_base: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ggml_abi, "GGML_COMMIT", "abcdef123")
    assert "abcdef123" in _refusal(lib_base)


@pytest.mark.parametrize(
    ("version", "commit", "release", "known"),
    [
        ("1.2.3", "0123456789", "7", True),
        ("1.2.3", "0123456-dirty", "7", True),
        ("1.2.3", "0123456", "7", True),
        ("1.2.3", "0123456789abcdef0123456789abcdef01234567", "7", True),
        ("1.2.4", "0123456789", "7", False),
        ("1.2.3", "0123457", "7", False),
        ("1.2.3", "012345", "7", False),  # too short to tell
        ("1.2.3", "", "7", False),
        ("1.2.3", "unknown", "7", True),  # built where there is no git
        ("1.2.3", "unknown", "8", False),
        ("1.2.3", "unknown", None, False),
    ],
)
def test_which_builds_are_known(
    version: str, commit: str, release: str | None, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ggml_abi, "GGML_VERSION", "1.2.3")
    monkeypatch.setattr(ggml_abi, "GGML_COMMIT", "012345678")
    monkeypatch.setattr(ggml_abi, "RELEASE", "7")
    monkeypatch.setattr(abi_check, "_installed_release", lambda: release)
    assert abi_check._is_known(version, commit) is known


def test_the_installed_release_is_the_pinned_one() -> None:
    assert abi_check._installed_release() == ggml_abi.RELEASE


def test_a_library_without_the_functions_is_refused() -> None:
    assert "ggml_version" in _refusal(ctypes.CDLL(None))


@pytest.mark.parametrize(
    ("table", "name", "words"),
    [
        ("GGML_OP", "MUL_MAT_ID", "op 31 is OUT_PROD"),
        ("GGML_GLU_OP", "SWIGLU", "glu op"),
        ("GGML_TYPE", "Q4_K", "type"),
    ],
)
def test_a_number_that_moved_is_refused(
    table: str, name: str, words: str, lib_base: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(getattr(ggml_abi, table), name, getattr(ggml_abi, table)[name] + 1)
    message = _refusal(lib_base)
    assert words in message
    assert name in message


def test_a_struct_of_another_size_is_refused(lib_base: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ggml_abi.SIZEOF, "ggml_backend", 160)
    assert "struct ggml_backend has 152 bytes on this platform, not 160" in _refusal(lib_base)


def test_a_tensor_of_another_size_is_refused(lib_base: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    class Larger(ggml_abi.ggml_tensor):
        _fields_ = (("more", ctypes.c_void_p),)

    monkeypatch.setattr(ggml_abi, "ggml_tensor", Larger)
    monkeypatch.setitem(ggml_abi.SIZEOF, "ggml_tensor", ctypes.sizeof(Larger))
    assert "a ggml_tensor takes 368 bytes, not 344 + 32" in _refusal(lib_base)


def test_a_block_of_another_size_is_refused(lib_base: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GGML_TYPES, "Q4_K", GgmlType("Q4_K", 12, 256, 146))
    assert "type Q4_K has blocks of (256, 144)" in _refusal(lib_base)


def _with_swapped_fields(struct: Any, first: str, second: str) -> Any:
    """Return the same struct with two fields of one type in each other's places."""
    swap = {first: second, second: first}
    return type(
        struct.__name__,
        (ctypes.Structure,),
        {"_fields_": tuple((swap.get(name, name), kind) for name, kind in struct._fields_)},
    )


@pytest.mark.parametrize(
    ("struct", "first", "second"),
    [
        ("ggml_tensor", "type", "op"),
        ("ggml_tensor", "ne", "nb"),
        ("ggml_tensor", "buffer", "data"),
        ("ggml_tensor", "view_src", "extra"),
        ("ggml_tensor", "flags", "op"),
        ("ggml_cgraph", "n_nodes", "n_leafs"),
        ("ggml_cgraph", "nodes", "grads"),
        ("ggml_backend_buffer", "buft", "context"),
        ("ggml_backend_buffer_type_i", "get_name", "get_alignment"),
        ("ggml_backend_buffer_i", "reset", "free_buffer"),
        ("ggml_backend_i", "graph_compute", "graph_plan_compute"),
        ("ggml_backend_device_i", "supports_op", "offload_op"),
        ("ggml_backend_reg_i", "get_device", "get_proc_address"),
    ],
)
def test_a_layout_that_differs_is_found_on_live_objects(
    struct: str, first: str, second: str, lib_base: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = _with_swapped_fields(getattr(ggml_abi, struct), first, second)
    monkeypatch.setattr(ggml_abi, struct, swapped)
    if struct.endswith("_i"):  # whoever holds it must hold the swapped one
        owner = getattr(ggml_abi, struct.removesuffix("_i"))
        fields = tuple((name, swapped if name == "iface" else kind) for name, kind in owner._fields_)
        monkeypatch.setattr(ggml_abi, owner.__name__, type(owner.__name__, (ctypes.Structure,), {"_fields_": fields}))
        found = list(abi_probe.slot_disagreements(lib_base))
    else:
        found = list(abi_probe.object_disagreements(lib_base))
    assert found
    assert any(word in " ".join(found) for word in (struct, first, second))


def test_the_python_structs_lie_as_the_compiler_laid_them_out() -> None:
    for name, offset in ggml_abi.TENSOR_OFFSETS.items():
        assert getattr(ggml_abi.ggml_tensor, name).offset == offset, name
    for name, n_bytes in ggml_abi.SIZEOF.items():
        assert ctypes.sizeof(getattr(ggml_abi, name)) == n_bytes, name


@pytest.mark.skipif(not CAN_GENERATE, reason="no headers in the cache (`make check` fetches them) or no compiler")
def test_the_generated_file_is_what_the_headers_say() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "generate_ggml_abi.py"), "--check"]
    run = subprocess.run(command, env=ENVIRON, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
