"""Small GGUF files of plain arrays: statistics, not weights. Written durably, read back as numpy arrays.

Knows nothing of what the arrays mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quant.durable_files import DurableFiles
from quant.errors import GgufError
from quant.ggml_types import GGML_TYPES
from quant.gguf_write import GgufField, GgufTensor, plan_layout
from quant.shown import shown
from quant.tensor_info import TensorInfo

_TYPE_NAMES = {"<f4": "F32", "<f8": "F64"}
_DTYPES = {name: np.dtype(text) for text, name in _TYPE_NAMES.items()}


def write_gguf_arrays(
    path: Path,
    metadata: Mapping[str, GgufField],
    arrays: Mapping[str, NDArray[np.floating]],
    files: DurableFiles | None = None,
) -> None:
    """Write `arrays`, float32 or float64 of 1 to 4 dimensions, as the tensors of a GGUF file.

    Raises:
        ValueError: a name, a shape or a dtype that GGUF cannot hold.
        OSError: the disk is full or refuses; what was under `path` before is still there, no temporary file is.
    """
    files = files or DurableFiles()
    tensors = [GgufTensor(name, array.shape, GGML_TYPES[_type_name(array)]) for name, array in arrays.items()]
    layout = plan_layout(metadata, tensors)
    data = ((placed.offset_bytes, _bytes_of(arrays[placed.name])) for placed in layout.placed)
    files.replace_whole(path, chain([(0, memoryview(layout.header))], data), layout.total_bytes)


def read_gguf_array(info: TensorInfo) -> NDArray[np.floating]:
    """Return the data of a tensor that is stored as F32 or F64, in its shape.

    Raises:
        GgufError: another type, or the file ends before the tensor does.
    """
    dtype = _DTYPES.get(info.dtype)
    if dtype is None:
        raise GgufError(info.path, f"tensor {shown(info.name)} is {info.dtype}, not F32 or F64")
    try:
        with info.path.open("rb") as file:
            file.seek(info.offset_bytes)
            array = np.fromfile(file, dtype, info.n_weights)
    except OSError as error:
        raise GgufError(info.path, error.strerror or str(error)) from error
    if array.size != info.n_weights:
        raise GgufError(info.path, f"ended inside tensor {shown(info.name)} while it was read")
    return array.reshape(info.shape)


def _bytes_of(array: NDArray[np.floating]) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B")


def _type_name(array: NDArray[np.floating]) -> str:
    name = _TYPE_NAMES.get(array.dtype.str)
    if name is None:
        raise ValueError(f"arrays of float32 and float64 are written, not of {array.dtype}")
    return name
