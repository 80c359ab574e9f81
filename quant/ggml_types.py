"""The tensor types of ggml: number, block size, bytes; and what follows from them for rows and shapes.

Source: `enum ggml_type` in ggml.h and `GGML_QUANT_SIZES` in gguf-py, llama.cpp 0c1e57098 (llama-cpp-python 0.3.36).
tests/quant/test_ggml_types.py holds the table against the loaded library.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, slots=True)
class GgmlType:
    """One tensor type: rows are cut into blocks of `block_weights`, each stored in `block_bytes`."""

    name: str
    type_id: int
    block_weights: int
    block_bytes: int

    @property
    def bits_per_weight(self) -> float:
        """Storage cost of a weight, scales included."""
        return 8 * self.block_bytes / self.block_weights

    def divides(self, n_columns: int) -> bool:
        """Tell whether a row of `n_columns` is a whole number of blocks."""
        return n_columns % self.block_weights == 0

    def row_bytes(self, n_columns: int) -> int:
        """Return the bytes of one row.

        Raises:
            ValueError: the row is not a whole number of blocks.
        """
        if not self.divides(n_columns):
            raise ValueError(f"{self.name} stores blocks of {self.block_weights}: a row of {n_columns} does not divide")
        return n_columns // self.block_weights * self.block_bytes

    def tensor_bytes(self, shape: tuple[int, ...]) -> int:
        """Return the bytes of a tensor of `shape` (numpy order)."""
        return prod(shape[:-1]) * self.row_bytes(shape[-1] if shape else 1)


GGML_TYPES: dict[str, GgmlType] = {
    entry.name: entry
    for entry in (
        GgmlType("F32", 0, 1, 4),
        GgmlType("F16", 1, 1, 2),
        GgmlType("Q4_0", 2, 32, 18),
        GgmlType("Q4_1", 3, 32, 20),
        GgmlType("Q5_0", 6, 32, 22),
        GgmlType("Q5_1", 7, 32, 24),
        GgmlType("Q8_0", 8, 32, 34),
        GgmlType("Q8_1", 9, 32, 36),
        GgmlType("Q2_K", 10, 256, 84),
        GgmlType("Q3_K", 11, 256, 110),
        GgmlType("Q4_K", 12, 256, 144),
        GgmlType("Q5_K", 13, 256, 176),
        GgmlType("Q6_K", 14, 256, 210),
        GgmlType("Q8_K", 15, 256, 292),
        GgmlType("IQ2_XXS", 16, 256, 66),
        GgmlType("IQ2_XS", 17, 256, 74),
        GgmlType("IQ3_XXS", 18, 256, 98),
        GgmlType("IQ1_S", 19, 256, 50),
        GgmlType("IQ4_NL", 20, 32, 18),
        GgmlType("IQ3_S", 21, 256, 110),
        GgmlType("IQ2_S", 22, 256, 82),
        GgmlType("IQ4_XS", 23, 256, 136),
        GgmlType("I8", 24, 1, 1),
        GgmlType("I16", 25, 1, 2),
        GgmlType("I32", 26, 1, 4),
        GgmlType("I64", 27, 1, 8),
        GgmlType("F64", 28, 1, 8),
        GgmlType("IQ1_M", 29, 256, 56),
        GgmlType("BF16", 30, 1, 2),
        GgmlType("TQ1_0", 34, 256, 54),
        GgmlType("TQ2_0", 35, 256, 66),
        GgmlType("MXFP4", 39, 32, 17),
        GgmlType("NVFP4", 40, 64, 36),
        GgmlType("Q1_0", 41, 128, 18),
        GgmlType("Q2_0", 42, 64, 18),
    )
}

GGML_TYPES_BY_ID: dict[int, GgmlType] = {entry.type_id: entry for entry in GGML_TYPES.values()}
