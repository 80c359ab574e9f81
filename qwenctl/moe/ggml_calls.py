"""ggml's functions that the expert backend calls, bound with ctypes from the libraries llama.cpp has loaded.

Short calls keep Python's lock (PyDLL: releasing and taking it again costs more than they do); computing releases it
(CDLL). Signatures: ggml.h, ggml-backend.h, ggml-cpu.h of the pinned release (ggml_abi.py names it). Nothing here checks
an argument: ggml aborts the process on a bad one. Knows nothing of experts.
"""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qwenctl.moe import ggml_abi as abi

Table = tuple[tuple[str, Any, tuple[Any, ...]], ...]

_BASE: Table = (
    ("ggml_init", c_void_p, (abi.ggml_init_params,)),
    ("ggml_free", None, (c_void_p,)),
    ("ggml_tensor_overhead", c_size_t, ()),
    ("ggml_graph_overhead_custom", c_size_t, (c_size_t, c_bool)),
    ("ggml_new_tensor_3d", c_void_p, (c_void_p, c_int, c_int64, c_int64, c_int64)),
    ("ggml_new_graph_custom", c_void_p, (c_void_p, c_size_t, c_bool)),
    ("ggml_mul_mat", c_void_p, (c_void_p, c_void_p, c_void_p)),
    ("ggml_mul_mat_id", c_void_p, (c_void_p, c_void_p, c_void_p, c_void_p)),
    ("ggml_get_rows", c_void_p, (c_void_p, c_void_p, c_void_p)),
    ("ggml_set_rows", c_void_p, (c_void_p, c_void_p, c_void_p, c_void_p)),
    ("ggml_glu", c_void_p, (c_void_p, c_void_p, c_int, c_bool)),
    ("ggml_glu_split", c_void_p, (c_void_p, c_void_p, c_void_p, c_int)),
    ("ggml_backend_buffer_init", c_void_p, (c_void_p, abi.ggml_backend_buffer_i, c_void_p, c_size_t)),
    ("ggml_backend_buffer_free", None, (c_void_p,)),
    ("ggml_backend_buft_alloc_buffer", c_void_p, (c_void_p, c_size_t)),
    ("ggml_backend_buft_get_alloc_size", c_size_t, (c_void_p, c_void_p)),
    ("ggml_backend_buft_is_host", c_bool, (c_void_p,)),
    ("ggml_backend_buft_name", c_char_p, (c_void_p,)),
    ("ggml_backend_cpu_buffer_type", c_void_p, ()),
    ("ggml_backend_cpu_buffer_from_ptr", c_void_p, (c_void_p, c_size_t)),
    ("ggml_backend_tensor_alloc", c_int, (c_void_p, c_void_p, c_void_p)),
    ("ggml_backend_free", None, (c_void_p,)),
    ("ggml_backend_dev_supports_op", c_bool, (c_void_p, c_void_p)),
)
_CPU = (
    ("ggml_backend_cpu_init", c_void_p, ()),
    ("ggml_backend_cpu_set_n_threads", None, (c_void_p, c_int)),
    ("ggml_backend_cpu_set_abort_callback", None, (c_void_p, c_void_p, c_void_p)),
)
_REGISTRY = (
    ("ggml_backend_register", None, (c_void_p,)),
    ("ggml_backend_dev_by_type", c_void_p, (c_int,)),
    ("ggml_backend_dev_count", c_size_t, ()),
    ("ggml_backend_dev_get", c_void_p, (c_size_t,)),
)
_REGISTRY_OF_DEVICE = (
    ("ggml_backend_dev_backend_reg", c_void_p, (c_void_p,)),
    ("ggml_backend_reg_get_proc_address", c_void_p, (c_void_p, c_char_p)),
)

DEVICE_TYPE_CPU = 0
_CONTEXT_ALIGNMENT = 64


class Ggml:
    """The bound functions, as attributes of their own names.

    Args:
        folder: where the wheel's libraries lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base_path = _find(folder, "ggml-base")
        base = ctypes.PyDLL(str(self.base_path))
        cpu = ctypes.PyDLL(str(_find(folder, "ggml-cpu")))
        self.registry_path = _find(folder, "ggml")
        registry = ctypes.PyDLL(str(self.registry_path))
        for library, table in ((base, _BASE), (cpu, _CPU), (registry, _REGISTRY), (base, _REGISTRY_OF_DEVICE)):
            bind_table(self, library, table)
        unlocked = ctypes.CDLL(str(self.base_path))
        self.graph_compute = _bind(unlocked, "ggml_backend_graph_compute", c_int, (c_void_p, c_void_p))
        self.graph_compute_address = int(ctypes.cast(self.graph_compute, c_void_p).value or 0)
        self.cpu_device = int(self.ggml_backend_dev_by_type(DEVICE_TYPE_CPU) or 0)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def extra_buffer_types(self) -> dict[str, int]:
        """Return the CPU's buffer types that rearrange weights, by name: "AMX", "CPU_REPACK", …"""
        registry = self.ggml_backend_dev_backend_reg(self.cpu_device)
        address = self.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        if not address:
            return {}
        listing = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(address)(self.cpu_device)
        found: dict[str, int] = {}
        index = 0
        while listing and (buffer_type := listing[index]):
            found[self.ggml_backend_buft_name(buffer_type).decode()] = buffer_type
            index += 1
        return found


class TensorContext:
    """A ggml context for tensor headers and graphs in memory of ours; the tensors' data is elsewhere (`no_alloc`).

    Attributes:
        words: uint64 (n,): the context's memory. Headers are changed through it, a field or many fields at once.
    """

    def __init__(self, ggml: Ggml, n_tensors: int, graph_sizes: tuple[int, ...] = ()) -> None:
        self._ggml = ggml
        size = n_tensors * ggml.ggml_tensor_overhead() + 1024
        size += sum(ggml.ggml_graph_overhead_custom(n, False) for n in graph_sizes)
        memory = np.zeros(size // 8 + 8, dtype=np.uint64)
        skip = -memory.ctypes.data % _CONTEXT_ALIGNMENT // 8
        self.words: npt.NDArray[np.uint64] = memory[skip:]
        self._address = int(self.words.ctypes.data)
        params = abi.ggml_init_params()
        params.mem_size, params.mem_buffer, params.no_alloc = size, self._address, True
        self.handle = ggml.ggml_init(params)
        if not self.handle:
            raise MemoryError(f"ggml_init of {size} bytes")

    def tensor(self, type_id: int, n0: int, n1: int, n2: int = 1) -> Any:
        """Return a new tensor as a view of its struct (ggml_abi.ggml_tensor)."""
        return at(self._ggml.ggml_new_tensor_3d(self.handle, type_id, n0, n1, n2))

    def graph(self, size: int) -> Any:
        """Return an empty graph for up to `size` nodes as a view of its struct."""
        return abi.ggml_cgraph.from_address(self._ggml.ggml_new_graph_custom(self.handle, size, False))

    def word_of(self, tensor: Any, field: str) -> int:
        """Return the index in `words` of a tensor's field: "data", "ne", "nb"."""
        return self.index_of(ctypes.addressof(tensor) + abi.TENSOR_OFFSETS[field])

    def index_of(self, address: int) -> int:
        """Return the index in `words` of an address inside the context."""
        return (address - self._address) // 8

    def free(self) -> None:
        """Free every tensor and graph made here."""
        handle, self.handle = self.handle, None
        if handle:
            self._ggml.ggml_free(handle)


def at(address: int | None) -> Any:
    """Return the tensor at an address as a view of its struct."""
    if not address:
        raise MemoryError("ggml made no tensor")
    return abi.ggml_tensor.from_address(address)


def address_of(struct: Any) -> int:
    """Return the address of a struct's view."""
    return ctypes.addressof(struct)


def _find(folder: Path, stem: str) -> Path:
    # The name with the ABI number is the one that llama.cpp loads; the copy without it would be a second library.
    for name in (f"lib{stem}.so.0", f"lib{stem}.so", f"lib{stem}.0.dylib", f"lib{stem}.dylib", f"{stem}.dll"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"no {stem} library in {folder.name}")


def bind_table(target: Any, library: ctypes.CDLL, table: Table) -> None:
    """Make the functions of a table attributes of `target`: (name, type of the result, types of the arguments)."""
    for name, result, arguments in table:
        setattr(target, name, _bind(library, name, result, arguments))


def _bind(library: Any, name: str, result: Any, arguments: tuple[Any, ...]) -> Any:
    function = getattr(library, name)
    function.restype, function.argtypes = result, list(arguments)
    return function


def rows_at(address: int, n_rows: int, n_columns: int) -> npt.NDArray[np.float32]:
    """Return f32 (n_rows, n_columns) that lie one after the other at an address, as a view."""
    floats = (ctypes.c_float * (n_rows * n_columns)).from_address(address)
    return np.ndarray((n_rows, n_columns), dtype=np.float32, buffer=memoryview(floats))
