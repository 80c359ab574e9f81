"""Second moments of the inputs of weight matrices, X^T X over the tokens: what error-compensated rounding (GPTQ) needs.

One safetensors file, keyed by the names of GGUF tensors, columns in the order of GGUF rows:

    NAME           F32 (n_matrices, n_columns, n_columns)   sum over tokens of x x^T
    NAME.counts    F32 (n_matrices,)                        tokens
    __metadata__   "format": "second-moments"; "shared": JSON object, NAME -> NAME whose input is the same

n_matrices is 1 for a dense weight. For stacked experts it is n_experts, or 1: all tokens that were routed in the layer,
whichever experts they went to. Matrices are read one at a time: the file may be larger than memory.
Knows nothing of what is done with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quant.durable_files import DurableFiles
from quant.errors import SafetensorsError
from quant.json_file import parse_json_object
from quant.safetensors_read import SafetensorsFile, read_safetensors
from quant.safetensors_write import NewTensor, lay_out
from quant.shown import shown
from quant.tensor_info import TensorInfo

_FORMAT = "second-moments"
_COUNTS = ".counts"


@dataclass(frozen=True, slots=True, eq=False)  # arrays do not compare to one bool
class MomentsEntry:
    """The second moments of one input.

    Args:
        moments: f32 (n_matrices, n_columns, n_columns), symmetric.
        counts: f32 (n_matrices,), tokens.

    Raises:
        ValueError: other shapes or dtypes.
    """

    moments: NDArray[np.float32]
    counts: NDArray[np.float32]

    def __post_init__(self) -> None:
        shape = self.moments.shape
        if len(shape) != 3 or shape[1] != shape[2] or self.counts.shape != shape[:1] or 0 in shape:
            raise ValueError(f"moments of shape {shape} and counts of shape {self.counts.shape} do not go together")
        if self.moments.dtype != np.float32 or self.counts.dtype != np.float32:
            raise ValueError(f"moments and counts must be float32, not {self.moments.dtype} and {self.counts.dtype}")


class SecondMoments:
    """A validated file. `read_second_moments` makes it; every read goes to the disk."""

    def __init__(self, file: SafetensorsFile, shared: Mapping[str, str]) -> None:
        self.path = file.path
        self._tensors = file.tensors
        self._shared = shared

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._stored(name) in self._tensors

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of all tensors whose input is known."""
        yield from (name for name in self._tensors if not name.endswith(_COUNTS))
        yield from self._shared

    def stored_name(self, name: str) -> str:
        """Return the name under which the moments of a tensor are stored: its own, or that of one with its input."""
        return self._stored(name)

    def n_matrices(self, name: str) -> int:
        """Return n_experts, or 1: one input for all matrices of the tensor, or a dense weight.

        Raises:
            KeyError: nothing is known of the tensor; as in the methods below.
        """
        return self._info(name).shape[0]

    def n_columns(self, name: str) -> int:
        """Return the length of a row of the tensor."""
        return self._info(name).shape[2]

    def count(self, name: str, matrix: int = 0) -> float:
        """Return the number of tokens; `matrix` is an expert, or any number where one input stands for all."""
        info = self._tensors[self._stored(name) + _COUNTS]
        return float(self._read(info, self._row(name, matrix), 1)[0])

    def moments(self, name: str, matrix: int = 0) -> NDArray[np.float32]:
        """Return f32 (n_columns, n_columns), the sum of x x^T; `matrix` as in `count`.

        Raises:
            SafetensorsError: the file cannot be read any more, or a number in it is not finite.
        """
        info = self._info(name)
        n_columns = info.shape[2]
        found = self._read(info, self._row(name, matrix), n_columns * n_columns)
        if not np.isfinite(found).all():
            raise SafetensorsError(self.path, f"the moments of {shown(name)} are not finite")
        return found.reshape(n_columns, n_columns)

    def _row(self, name: str, matrix: int) -> int:
        n_matrices = self.n_matrices(name)
        if matrix < 0 or (n_matrices > 1 and matrix >= n_matrices):
            raise IndexError(f"{name} has {n_matrices} matrices, not a number {matrix}")
        return matrix if n_matrices > 1 else 0

    def _stored(self, name: str) -> str:
        return self._shared.get(name, name)

    def _info(self, name: str) -> TensorInfo:
        return self._tensors[self._stored(name)]

    def _read(self, info: TensorInfo, row: int, n_values: int) -> NDArray[np.float32]:
        try:
            with self.path.open("rb") as file:
                file.seek(info.offset_bytes + 4 * row * n_values)
                values = np.fromfile(file, "<f4", n_values)
        except OSError as error:
            raise SafetensorsError(self.path, error.strerror or str(error)) from error
        if values.size != n_values:
            raise SafetensorsError(self.path, f"ended inside {shown(info.name)} while it was read")
        return values


def read_second_moments(path: Path) -> SecondMoments:
    """Open a file of second moments.

    Raises:
        SafetensorsError: missing, damaged, or another kind of safetensors file.
    """
    file = read_safetensors(path)
    if file.metadata.get("format") != _FORMAT:
        raise SafetensorsError(path, "no second moments", "qwenctl imatrix --hessians writes them")
    for name, info in file.tensors.items():
        if name.endswith(_COUNTS):
            continue
        counts = file.tensors.get(name + _COUNTS)
        square = len(info.shape) == 3 and info.shape[1] == info.shape[2] and 0 not in info.shape
        fits = counts is not None and counts.shape == info.shape[:1] and counts.dtype == info.dtype == "F32"
        if not (square and fits):
            raise SafetensorsError(path, f"the moments of {shown(name)} and their counts do not go together")
    return SecondMoments(file, _shared_names(file))


def _shared_names(file: SafetensorsFile) -> dict[str, str]:
    try:
        shared = parse_json_object(file.metadata.get("shared", "{}").encode())
    except ValueError as error:
        raise SafetensorsError(file.path, f"shared: {error}") from error
    for name, stored in shared.items():
        if (
            not isinstance(stored, str)
            or stored not in file.tensors
            or stored.endswith(_COUNTS)
            or name in file.tensors
        ):
            raise SafetensorsError(file.path, f"{shown(name)} shares the input of {shown(stored)}, which is not there")
    return shared


def write_second_moments(
    path: Path,
    entries: Mapping[str, MomentsEntry],
    shared: Mapping[str, str] | None = None,
    files: DurableFiles | None = None,
) -> None:
    """Write a file; it appears under its name complete.

    Args:
        path: where.
        entries: by name of the GGUF tensor.
        shared: other tensors with the same input, and under which name of `entries` it is.
        files: how to write.

    Raises:
        ValueError: a shared name that is stored itself, or shares what is not stored.
        OSError: the disk is full or refuses; what was under `path` before is still there.
    """
    shared = shared or {}
    if any(stored not in entries or name in entries for name, stored in shared.items()):
        raise ValueError("a shared input is not among those stored, or is stored itself")
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, entry in entries.items():
        arrays[name], arrays[name + _COUNTS] = entry.moments, entry.counts
    tensors = [NewTensor(name, "F32", array.shape) for name, array in arrays.items()]
    layout = lay_out(path.name, tensors, {"format": _FORMAT, "shared": json.dumps(dict(shared))})
    data = ((placed.offset_bytes, _bytes_of(arrays[placed.name])) for placed in layout.tensors)
    files = files or DurableFiles()
    files.replace_whole(path, chain([(0, memoryview(layout.header))], data), layout.total_bytes)


def _bytes_of(array: NDArray[np.float32]) -> memoryview:
    return np.ascontiguousarray(array, "<f4").data.cast("B")
