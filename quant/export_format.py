"""The two formats that are exported: which parts a packed matrix has, and how chunks of its rows fill them.

    AWQ gemm    qweight, qzeros, scales           asymmetric, as AutoAWQ writes it and all loaders read it
    GPTQ        qweight, qzeros, g_idx, scales    symmetric: vLLM takes no other (AutoGPTQConfig.TYPE_MAP of 0.32)

The parts of a matrix lie behind each other, so that it is one stretch of the file. Layouts: quant/codecs/int4_layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quant.codecs.int4_layout import group_index, pack_awq, pack_gptq
from quant.codecs.int4_search import Int4Groups
from quant.safetensors_write import NewTensor

WORD = 8  # numbers of 4 bits in an int32
_TYPES: dict[str, np.dtype[Any]] = {"I32": np.dtype("<i4"), "F16": np.dtype("<f2")}


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """A format with its settings.

    Raises:
        ValueError: a group that is not a number of whole words.
    """

    name: Literal["awq", "gptq"]
    group_size: int = 128

    def __post_init__(self) -> None:
        if self.group_size < WORD or self.group_size % WORD:
            raise ValueError(f"groups of {self.group_size}")

    @property
    def is_symmetric(self) -> bool:
        """Whether every zero is 8."""
        return self.name == "gptq"

    def parts(self, module: str, n_rows: int, n_columns: int) -> tuple[NewTensor, ...]:
        """Return the parts of a matrix (n_rows, n_columns) that groups and words divide, in their order."""
        n_groups = n_columns // self.group_size
        words = (n_columns, n_rows // WORD) if self.name == "awq" else (n_columns // WORD, n_rows)
        index = () if self.name == "awq" else (NewTensor(f"{module}.g_idx", "I32", (n_columns,)),)
        return (
            NewTensor(f"{module}.qweight", "I32", words),
            NewTensor(f"{module}.qzeros", "I32", (n_groups, n_rows // WORD)),
            *index,
            NewTensor(f"{module}.scales", "F16", (n_groups, n_rows)),
        )

    def packed_bytes(self, n_rows: int, n_columns: int) -> int:
        """Return the bytes of all parts of a matrix."""
        return sum(part.n_bytes for part in self.parts("", n_rows, n_columns))


class PackedMatrix:
    """The bytes of all parts of one matrix, filled some rows at a time.

    Args:
        kind: the format.
        n_rows, n_columns: of the matrix.
    """

    def __init__(self, kind: ExportFormat, n_rows: int, n_columns: int) -> None:
        self._kind = kind
        self._index = group_index(n_columns, kind.group_size)
        parts = kind.parts("", n_rows, n_columns)
        self.data = np.empty(sum(part.n_bytes for part in parts), np.uint8)
        self._parts: dict[str, NDArray[Any]] = {}
        end = 0
        for part in parts:
            begin, end = end, end + part.n_bytes
            self._parts[part.name[1:]] = self.data[begin:end].view(_TYPES[part.dtype]).reshape(part.shape)
        if kind.name == "gptq":
            self._parts["g_idx"][:] = self._index

    def fill(self, first_row: int, rows: Int4Groups) -> None:
        """Put rows, a multiple of eight, where they belong.

        Raises:
            ValueError: a scale that f16 cannot hold.
        """
        after = first_row + len(rows.codes)
        words = slice(first_row // WORD, after // WORD)
        if self._kind.name == "awq":
            qweight, qzeros, scales = pack_awq(rows.codes, rows.zeros, rows.scales)
            self._parts["qweight"][:, words] = qweight
        else:
            qweight, qzeros, scales, _ = pack_gptq(rows.codes, rows.zeros, rows.scales, self._index)
            self._parts["qweight"][:, first_row:after] = qweight
        self._parts["qzeros"][:, words] = qzeros
        self._parts["scales"][:, first_row:after] = scales
