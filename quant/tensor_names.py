"""From the tensors of a checkpoint to those of a GGUF file: names, order, stacking. Rows are pointed at, never read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quant.hf_config import HfConfig
from quant.tensor_info import TensorInfo


@dataclass(frozen=True, slots=True)
class SourceRows:
    """`n_rows` consecutive rows of a checkpoint's tensor, from `first_row` (counted over all outer dimensions)."""

    info: TensorInfo
    first_row: int
    n_rows: int


@dataclass(frozen=True, slots=True)
class TargetTensor:
    """One tensor of the GGUF file, and the rows it is made of, in order.

    `shape` is in numpy order, columns last; stacked experts are (n_experts, rows, columns) with one entry of
    `sources` per expert.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[SourceRows, ...]


def map_tensors(config: HfConfig, tensors: Mapping[str, TensorInfo]) -> tuple[TargetTensor, ...]:
    """Return the tensors of the GGUF file in file order.

    Raises:
        CheckpointError: tensors that the configuration demands are missing, others are not known, or shapes differ.
        UnsupportedTensor: the fused experts are stored transposed, so that rows cannot be streamed.
    """
    raise NotImplementedError
