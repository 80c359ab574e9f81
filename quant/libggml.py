"""The part of libggml-base that codecs need, bound with ctypes from the library inside the llama-cpp-python wheel.

    ggml_version, ggml_commit                           what was loaded
    ggml_type_name, ggml_blck_size, ggml_type_size      held against quant/ggml_types.py while loading
    ggml_quantize_chunk, ggml_quantize_init             f32 → any type
    ggml_get_type_traits(type)->to_float                any type → f32
    ggml_fp16_to_fp32_row, ggml_bf16_to_fp32_row        f16, bf16 → f32

Signatures: ggml.h of llama.cpp 0c1e57098 (llama-cpp-python 0.3.36). ctypes releases the interpreter lock for the length
of each call, so threads encode in parallel. Nothing here checks an argument: ggml *aborts the process* on a bad one, so
callers go through quant/codecs/native.py, which does. Does not import llama_cpp, which would load the whole engine.
"""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.errors import NativeLibraryError
from quant.ggml_types import GGML_TYPES, GgmlType

# The name with the ABI number is the library's own (its SONAME), and wheels hold copies, not links: opening the copy
# without the number after libllama would put a second libggml-base into the process.
_LIBRARY_NAMES = (
    "libggml-base.so.0",
    "libggml-base.so",
    "libggml-base.0.dylib",
    "libggml-base.dylib",
    "ggml-base.dll",
    "libggml-base.dll",
)
_REINSTALL = "reinstall llama-cpp-python==0.3.36 (`make setup` does it)"

_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits`."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", _TO_FLOAT),
        ("from_float_ref", ctypes.c_void_p),
    )


@dataclass(frozen=True, slots=True)
class LibGgml:
    """An opened libggml-base whose type table is the one we know. Safe to share between threads."""

    path: Path
    version: str
    commit: str
    _library: Any

    def quantize_chunk(  # noqa: PLR0917 - the order is the library's
        self, type_id: int, source: int, destination: int, n_rows: int, n_columns: int, imatrix: int | None
    ) -> None:
        """Encode rows of f32 at address `source` to `destination`.

        Args:
            type_id: number of the ggml type.
            source: address of (n_rows, n_columns) f32, contiguous and finite.
            destination: address of n_rows * row bytes.
            n_rows: rows to encode.
            n_columns: a multiple of the type's block.
            imatrix: address of (n_columns,) f32, or None.
        """
        self._library.ggml_quantize_chunk(type_id, source, destination, 0, n_rows, n_columns, imatrix)

    def dequantize(self, type_id: int, source: int, destination: int, n_weights: int) -> None:
        """Decode `n_weights` of a type that has a decoder, from address `source` to f32 at `destination`."""
        self._library.ggml_get_type_traits(type_id).contents.to_float(source, destination, n_weights)

    def can_dequantize(self, type_id: int) -> bool:
        """Tell whether the type has a decoder (F32, integers and the types of activations have none)."""
        return bool(self._library.ggml_get_type_traits(type_id).contents.to_float)

    def requires_imatrix(self, type_id: int) -> bool:
        """Tell whether the type can be encoded only with an importance matrix."""
        return bool(self._library.ggml_quantize_requires_imatrix(type_id))

    def fp16_to_fp32_row(self, source: int, destination: int, n_weights: int) -> None:
        """Convert `n_weights` f16 at address `source` to f32 at `destination`."""
        self._library.ggml_fp16_to_fp32_row(source, destination, n_weights)

    def bf16_to_fp32_row(self, source: int, destination: int, n_weights: int) -> None:
        """Convert `n_weights` bf16 at address `source` to f32 at `destination`."""
        self._library.ggml_bf16_to_fp32_row(source, destination, n_weights)

    def type_facts(self, type_id: int) -> tuple[str, int, int]:
        """Return (name in capitals, weights a block, bytes a block) as the library has them."""
        traits = self._library.ggml_get_type_traits(type_id).contents
        name = (traits.type_name or b"").decode("ascii", "replace")
        return name.upper(), traits.blck_size, traits.type_size


def load_libggml(folder: Path | None = None) -> LibGgml:
    """Open libggml-base and hold its type table against ours.

    Args:
        folder: where the library lies; None: in the llama-cpp-python wheel of this interpreter.

    Raises:
        NativeLibraryError: not found, not loadable, or its types differ from quant/ggml_types.py.
    """
    path = _library_path(folder or _wheel_folder())
    try:
        library = _bind(ctypes.CDLL(str(path)))
    except (OSError, AttributeError) as error:  # AttributeError: a function we need is not exported
        raise NativeLibraryError(f"{path} cannot be used: {error}", _REINSTALL) from error
    loaded = LibGgml(path, library.ggml_version().decode(), library.ggml_commit().decode(), library)
    for entry in GGML_TYPES.values():
        _check_type(loaded, entry)
    return loaded


def _wheel_folder() -> Path:
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise NativeLibraryError("llama-cpp-python is not installed, so there is no libggml", _REINSTALL)
    return Path(spec.submodule_search_locations[0]) / "lib"


def _library_path(folder: Path) -> Path:
    for name in _LIBRARY_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise NativeLibraryError(f"no libggml-base in {folder}", _REINSTALL)


def _bind(library: Any) -> Any:
    pointer, i64 = ctypes.c_void_p, ctypes.c_int64
    for name, result, arguments in (
        ("ggml_version", ctypes.c_char_p, ()),
        ("ggml_commit", ctypes.c_char_p, ()),
        ("ggml_get_type_traits", ctypes.POINTER(_TypeTraits), (ctypes.c_int,)),
        ("ggml_quantize_requires_imatrix", ctypes.c_bool, (ctypes.c_int,)),
        ("ggml_quantize_chunk", ctypes.c_size_t, (ctypes.c_int, pointer, pointer, i64, i64, i64, pointer)),
        ("ggml_fp16_to_fp32_row", None, (pointer, pointer, i64)),
        ("ggml_bf16_to_fp32_row", None, (pointer, pointer, i64)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _check_type(loaded: LibGgml, entry: GgmlType) -> None:
    facts = loaded.type_facts(entry.type_id)
    if facts != (entry.name.upper(), entry.block_weights, entry.block_bytes):
        raise NativeLibraryError(
            f"{loaded.path} (ggml {loaded.version}, {loaded.commit}) stores type {entry.type_id} as {facts}, "
            f"not as {(entry.name, entry.block_weights, entry.block_bytes)}",
            _REINSTALL,
        )
