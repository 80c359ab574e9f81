"""Compute a small product in every CPU buffer type of a built libggml and compare; run as a child, it may die.

    python smoke_test.py LIB_FOLDER

Prints one line of JSON {"amx": bool, "buffer_types": {name: error}, "version": …, "commit": …} and exits 0, or one
line that says what is wrong and exits 1. A wrongly compiled library kills the process (SIGILL) or computes nonsense.
Bare ctypes on purpose: this is the check of the ground that everything else stands on.
"""

from __future__ import annotations

import ctypes
import json
import math
import random
import sys
from ctypes import c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any

N_ROWS, N_COLUMNS, N_TOKENS = 256, 512, 64
GGML_TYPE_F32, GGML_TYPE_Q4_K = 0, 12
Q4_K_BLOCK_WEIGHTS, Q4_K_BLOCK_BYTES = 256, 144
DEVICE_TYPE_CPU = 0
REPEATS = 4  # tiles set up from what happens to lie on the stack may come out right once
CONTEXT_BYTES = 1 << 20  # tensor and graph headers only

# Both paths quantize the activations to 8 bits and multiply integers exactly; only the order of the float sums differs.
MAX_ERROR_BETWEEN_PATHS = 1e-4
# Q4_K of normal weights with 8-bit activations stays near 1e-2 of the exact product's energy.
MAX_ERROR_AGAINST_EXACT = 3e-2

_SIGNATURES = {
    "ggml-base": {
        "ggml_version": (c_char_p, []),
        "ggml_commit": (c_char_p, []),
        "ggml_init": (c_void_p, None),  # takes a struct, see below
        "ggml_free": (None, [c_void_p]),
        "ggml_new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
        "ggml_mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
        "ggml_new_graph": (c_void_p, [c_void_p]),
        "ggml_build_forward_expand": (None, [c_void_p, c_void_p]),
        "ggml_quantize_chunk": (
            c_size_t,
            [c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p],
        ),
        "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, [c_void_p, c_void_p]),
        "ggml_backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
        "ggml_backend_tensor_get": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
        "ggml_backend_graph_compute": (c_int, [c_void_p, c_void_p]),
        "ggml_backend_buft_name": (c_char_p, [c_void_p]),
        "ggml_backend_dev_backend_reg": (c_void_p, [c_void_p]),
        "ggml_backend_dev_buffer_type": (c_void_p, [c_void_p]),
        "ggml_backend_dev_init": (c_void_p, [c_void_p, c_char_p]),
        "ggml_backend_dev_supports_op": (c_bool, [c_void_p, c_void_p]),
        "ggml_backend_reg_get_proc_address": (c_void_p, [c_void_p, c_char_p]),
        "ggml_backend_buffer_free": (None, [c_void_p]),
        "ggml_backend_free": (None, [c_void_p]),
    },
    "ggml": {"ggml_backend_dev_by_type": (c_void_p, [c_int])},
    "ggml-rpc": {"ggml_backend_rpc_start_server": None, "ggml_backend_rpc_add_server": None},
    "llama": {"llama_backend_init": (None, []), "llama_model_quantize": (c_uint32, [c_char_p, c_char_p, c_void_p])},
}


class WrongLibraryError(Exception):
    """The library is not what we need, said in one line."""


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


class Libraries:
    """The functions of the libraries in one folder, as attributes."""

    def __init__(self, folder: Path) -> None:
        suffix = "dylib" if sys.platform == "darwin" else "so"
        # `ggml` first: it brings in the others under the names they were linked with.
        for name in ("ggml", "ggml-base", "llama", "ggml-rpc"):
            path = folder / f"lib{name}.{suffix}"
            if not path.is_file():
                raise WrongLibraryError(f"{path.name} is missing in {folder}")
            library = ctypes.CDLL(str(path))
            for symbol, signature in _SIGNATURES[name].items():
                try:
                    function = getattr(library, symbol)
                except AttributeError:
                    raise WrongLibraryError(f"{path.name} lacks {symbol}") from None
                if signature is not None:
                    function.restype, function.argtypes = signature
                setattr(self, symbol, function)
        self.ggml_init.argtypes = [_InitParams]

    def __getattr__(self, name: str) -> Any:  # reached only for what __init__ did not set; types the rest
        raise AttributeError(name)


def multiply(lib: Libraries, device: int, buffer_type: int, weights: bytes, tokens: ctypes.Array) -> list[float] | None:
    """Return weights @ tokens with the weights in `buffer_type`, or None where that type does not do it.

    weights: Q4_K rows (N_ROWS, N_COLUMNS); tokens: f32 (N_TOKENS, N_COLUMNS); result: f32 (N_TOKENS, N_ROWS), flat.
    """
    plain = lib.ggml_backend_dev_buffer_type(device)
    contexts = [lib.ggml_init(_InitParams(CONTEXT_BYTES, None, True)) for _ in range(2)]
    matrix = lib.ggml_new_tensor_2d(contexts[0], GGML_TYPE_Q4_K, N_COLUMNS, N_ROWS)
    batch = lib.ggml_new_tensor_2d(contexts[1], GGML_TYPE_F32, N_COLUMNS, N_TOKENS)
    product = lib.ggml_mul_mat(contexts[1], matrix, batch)
    buffers = [
        lib.ggml_backend_alloc_ctx_tensors_from_buft(contexts[0], buffer_type),
        lib.ggml_backend_alloc_ctx_tensors_from_buft(contexts[1], plain),
    ]
    result = None
    if all(buffers) and lib.ggml_backend_dev_supports_op(device, product):
        lib.ggml_backend_tensor_set(matrix, weights, 0, len(weights))
        lib.ggml_backend_tensor_set(batch, tokens, 0, ctypes.sizeof(tokens))
        graph = lib.ggml_new_graph(contexts[1])
        lib.ggml_build_forward_expand(graph, product)
        backend = lib.ggml_backend_dev_init(device, None)
        status = lib.ggml_backend_graph_compute(backend, graph)
        out = (c_float * (N_TOKENS * N_ROWS))()
        lib.ggml_backend_tensor_get(product, out, 0, ctypes.sizeof(out))
        lib.ggml_backend_free(backend)
        if status != 0:
            raise WrongLibraryError(f"ggml_backend_graph_compute answered {status}")
        result = list(out)
    for buffer in filter(None, buffers):
        lib.ggml_backend_buffer_free(buffer)
    for context in contexts:
        lib.ggml_free(context)
    return result


def extra_buffer_types(lib: Libraries, device: int) -> dict[str, int]:
    """Return the CPU's buffer types with a layout of their own, such as AMX and CPU_REPACK: {name: handle}."""
    registry = lib.ggml_backend_dev_backend_reg(device)
    address = lib.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return {}
    found = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(address)(device)
    types = {}
    for position in range(16):
        if not found or not found[position]:
            break
        types[lib.ggml_backend_buft_name(found[position]).decode()] = found[position]
    return types


def relative_error(values: list[float], reference: list[float]) -> float:
    """Return |values - reference|² / |reference|²; NaN anywhere gives infinity."""
    error = sum((a - b) ** 2 for a, b in zip(values, reference, strict=True)) / sum(b * b for b in reference)
    return error if math.isfinite(error) else math.inf


def check(folder: Path) -> dict[str, object]:
    """Check the libraries in `folder` and return what was found.

    Raises:
        WrongLibraryError: something is missing, or computes nonsense.
    """
    lib = Libraries(folder)
    draw = random.Random(7)
    rows = (c_float * (N_ROWS * N_COLUMNS))(*(draw.gauss(0, 1) for _ in range(N_ROWS * N_COLUMNS)))
    tokens = (c_float * (N_TOKENS * N_COLUMNS))(*(draw.gauss(0, 1) for _ in range(N_TOKENS * N_COLUMNS)))
    weights = ctypes.create_string_buffer(N_ROWS * N_COLUMNS // Q4_K_BLOCK_WEIGHTS * Q4_K_BLOCK_BYTES)
    n_written = lib.ggml_quantize_chunk(GGML_TYPE_Q4_K, rows, weights, 0, N_ROWS, N_COLUMNS, None)
    if n_written != ctypes.sizeof(weights):
        raise WrongLibraryError(f"ggml_quantize_chunk wrote {n_written} bytes of {ctypes.sizeof(weights)}")

    device = lib.ggml_backend_dev_by_type(DEVICE_TYPE_CPU)
    if not device:
        raise WrongLibraryError("libggml knows no CPU device")
    reference = multiply(lib, device, lib.ggml_backend_dev_buffer_type(device), weights.raw, tokens)
    if reference is None:
        raise WrongLibraryError("the CPU cannot multiply Q4_K")
    exact = [
        sum(rows[row * N_COLUMNS + k] * tokens[k] for k in range(N_COLUMNS)) for row in range(N_ROWS)
    ]  # for the first token
    if (error := relative_error(reference[:N_ROWS], exact)) > MAX_ERROR_AGAINST_EXACT:
        raise WrongLibraryError(f"the plain Q4_K product is wrong by {error:.3g}")

    errors: dict[str, float] = {}
    for name, buffer_type in extra_buffer_types(lib, device).items():
        for _ in range(REPEATS):
            product = multiply(lib, device, buffer_type, weights.raw, tokens)
            if product is None:
                break
            errors[name] = relative_error(product, reference)
            if errors[name] > MAX_ERROR_BETWEEN_PATHS:
                raise WrongLibraryError(f"the Q4_K product in buffer type {name} is wrong by {errors[name]:.3g}")
    return {
        "amx": "AMX" in errors,
        "buffer_types": errors,
        "version": lib.ggml_version().decode(),
        "commit": lib.ggml_commit().decode(),
    }


if __name__ == "__main__":
    try:
        print(json.dumps(check(Path(sys.argv[1]))))
    except (WrongLibraryError, OSError) as error:
        sys.exit(str(error).strip().replace("\n", " "))
