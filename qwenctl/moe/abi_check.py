"""Tell whether a loaded libggml-base is the build that ggml_abi.py describes, before anything is registered with it.

A struct that moved by eight bytes would be found as a wrong token or a dead process, so every claim of ggml_abi.py that
can be held against the library is: first the version and commit, which are safe to ask of any build, then names and
sizes, then live objects (abi_probe.py). Knows nothing of experts; what to do about an unknown build is the caller's.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Iterator
from ctypes import c_char_p, c_int, c_int64, c_size_t

from quant.ggml_types import GGML_TYPES
from qwenctl.moe import ggml_abi as abi
from qwenctl.moe.abi_probe import bind, object_disagreements, slot_disagreements

_DISTRIBUTION = "llama-cpp-python"
_OBJECT_BYTES = 32  # what ggml_tensor_overhead counts beside the tensor: two sizes, a pointer, an enum, padding


class UnknownBuild(Exception):
    """The loaded ggml is not the one that is known here; the message is one line that says how it differs."""


def check_abi(lib_base: ctypes.CDLL) -> None:
    """Hold the loaded library against ggml_abi.py. Takes a millisecond, and leaves nothing behind.

    Args:
        lib_base: libggml-base under the name with which libllama loaded it (see quant/libggml.py).

    Raises:
        UnknownBuild: another version or commit, or one that disagrees with our tables or layouts.
    """
    supported = f"ggml {abi.GGML_VERSION} ({abi.GGML_COMMIT}) of {_DISTRIBUTION} {abi.RELEASE}"
    try:
        version, commit = (_text(bind(lib_base, name, c_char_p)()) for name in ("ggml_version", "ggml_commit"))
        found = f"the installed ggml {version} ({commit})"
        if not _is_known(version, commit):
            raise UnknownBuild(f"{found} is not {supported}")
        for disagreements in (_number_disagreements, _size_disagreements, object_disagreements, slot_disagreements):
            for disagreement in disagreements(lib_base):
                raise UnknownBuild(f"{found} is not as {supported} should be: {disagreement}")
    except AttributeError as error:  # a function that is not exported
        raise UnknownBuild(f"the installed ggml is not {supported}: {error}") from None


def _text(given: bytes | None) -> str:
    return (given or b"").decode("ascii", "replace")


def _is_known(version: str, commit: str) -> bool:
    """Tell whether version and commit are the pinned ones.

    The commit ends in "-dirty" when git finds files of the list in the sdist missing, as it does; and it is "unknown"
    when the build found no git to ask, where the number of the installed release has to do.
    """
    if version != abi.GGML_VERSION:
        return False
    digits = commit.removesuffix("-dirty")
    if digits == "unknown":
        return _installed_release() == abi.RELEASE
    n_digits = min(len(digits), len(abi.GGML_COMMIT))
    return n_digits >= 7 and digits[:n_digits] == abi.GGML_COMMIT[:n_digits]


def _installed_release() -> str | None:
    try:
        return importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None


def _number_disagreements(lib_base: ctypes.CDLL) -> Iterator[str]:
    for kind, numbers, function in (
        ("op", abi.GGML_OP, "ggml_op_name"),
        ("glu op", abi.GGML_GLU_OP, "ggml_glu_op_name"),
        ("type", abi.GGML_TYPE, "ggml_type_name"),
    ):
        name_of = bind(lib_base, function, c_char_p, c_int)
        for name, number in numbers.items():
            theirs = _text(name_of(number))
            if theirs.upper() != name:
                yield f"{kind} {number} is {theirs}, not {name}"


def _size_disagreements(lib_base: ctypes.CDLL) -> Iterator[str]:
    for name, n_bytes in abi.SIZEOF.items():
        ours = ctypes.sizeof(getattr(abi, name))
        if ours != n_bytes:
            yield f"struct {name} has {ours} bytes on this platform, not {n_bytes}"
    overhead_bytes = bind(lib_base, "ggml_tensor_overhead", c_size_t)()
    if overhead_bytes != abi.SIZEOF["ggml_tensor"] + _OBJECT_BYTES:
        yield f"a ggml_tensor takes {overhead_bytes} bytes, not {abi.SIZEOF['ggml_tensor']} + {_OBJECT_BYTES}"
    block_weights = bind(lib_base, "ggml_blck_size", c_int64, c_int)
    block_bytes = bind(lib_base, "ggml_type_size", c_size_t, c_int)
    for entry in GGML_TYPES.values():
        theirs = block_weights(entry.type_id), block_bytes(entry.type_id)
        if theirs != (entry.block_weights, entry.block_bytes):
            yield f"type {entry.name} has blocks of {theirs}, not {(entry.block_weights, entry.block_bytes)}"
