"""Where a model may be scaled without changing what it computes: one factor a channel, divided here, multiplied there.

    input_layernorm            / s      q_proj, k_proj, v_proj            columns * s
    post_attention_layernorm   / s      gate_proj, up_proj, router        columns * s     of every expert
    v_proj                rows / s      o_proj                            columns * s     the same s for all query heads
                                                                                          of a key-value head
    up_proj               rows / s      down_proj                         columns * s     of the same expert

Whatever else reads a norm's output must be multiplied, too, or it sees other inputs than it was trained with: the
router stays in 16 bits and is compensated all the same. Rows of gate_proj cannot be divided, its output goes through
SiLU; those of q_proj and k_proj need not be, their products with each other are not multiplied by a stored matrix.
Pure; how s is chosen: quant/awq_scales.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.export_tensors import ExportTensor
from quant.hf_config import HfConfig

_AFTER_INPUT_NORM = ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")
_VALUE, _ATTENTION_OUTPUT = ("self_attn.v_proj.weight", "self_attn.v_proj.bias"), "self_attn.o_proj.weight"
_GATE_PARTS = ("mlp.gate_proj.weight", "gate_proj.weight")
_UP_PARTS, _DOWN_PARTS = ("mlp.up_proj.weight", "up_proj.weight"), ("mlp.down_proj.weight", "down_proj.weight")
_AFTER_MLP_NORM = ("mlp.gate_proj.weight", "mlp.up_proj.weight", "gate_proj.weight", "up_proj.weight")
_ROUTER = "mlp.gate.weight"


@dataclass(frozen=True, slots=True)
class ScaleSite:
    """One place of the table above. Numbers are those of tensors in the list that was searched.

    `n_channels` factors are chosen. Each stands for `n_repeats` columns: the factors come in blocks of `block`, and
    every block is repeated that often before the next (key-value heads; 1 elsewhere).
    """

    name: str  # of the tensor whose rows are divided
    n_channels: int
    divided: tuple[int, ...]  # vectors, and matrices by rows
    multiplied: tuple[int, ...]  # matrices, by columns
    is_norm: bool  # what is divided is a norm, stored in 16 bits: its rounding is part of the choice
    gate: int | None = None  # a matrix whose output, through SiLU, is multiplied with that of the divided one
    block: int = 1
    n_repeats: int = 1

    def spread(self, factors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the factor of each column, f32 (n_channels * n_repeats,), from those of the channels."""
        if self.n_repeats == 1:
            return factors
        blocks = factors.reshape(-1, 1, self.block)
        return np.repeat(blocks, self.n_repeats, axis=1).reshape(-1)

    def gathered(self, columns: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean over the columns of each channel, f32 (n_channels,)."""
        if self.n_repeats == 1:
            return columns
        mean: NDArray[np.float32] = columns.reshape(-1, self.n_repeats, self.block).mean(axis=1)
        return mean.reshape(-1)


@dataclass(frozen=True, slots=True)
class TensorFolds:
    """Numbers of the sites that scale a tensor's columns and rows; None: nothing does."""

    columns: int | None = None
    rows: int | None = None


def find_sites(config: HfConfig, tensors: Sequence[ExportTensor]) -> tuple[ScaleSite, ...]:
    """Return every site of the model, in the order of its layers."""
    layers: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, tensor in enumerate(tensors):
        if tensor.layer is not None:
            layers[tensor.layer][tensor.part].append(number)
    return tuple(site for layer in sorted(layers) for site in _layer_sites(config, tensors, layers[layer]))


def folds_of(sites: Sequence[ScaleSite], n_tensors: int) -> tuple[TensorFolds, ...]:
    """Return what scales each of `n_tensors` tensors."""
    columns: list[int | None] = [None] * n_tensors
    rows: list[int | None] = [None] * n_tensors
    for number, site in enumerate(sites):
        for tensor in site.multiplied:
            columns[tensor] = number
        for tensor in site.divided:
            rows[tensor] = number
    return tuple(TensorFolds(*pair) for pair in zip(columns, rows, strict=True))


def _layer_sites(config: HfConfig, tensors: Sequence[ExportTensor], parts: dict[str, list[int]]) -> Iterator[ScaleSite]:
    def numbers(names: Sequence[str]) -> tuple[int, ...]:
        return tuple(number for name in names for number in parts.get(name, ()))

    yield _after_norm(tensors, parts["input_layernorm.weight"][0], numbers(_AFTER_INPUT_NORM))
    value, output = numbers(_VALUE), parts[_ATTENTION_OUTPUT][0]
    n_value_rows = tensors[value[0]].n_rows
    yield ScaleSite(
        name=tensors[value[0]].name,
        n_channels=n_value_rows,
        divided=value,
        multiplied=(output,),
        is_norm=False,
        block=config.head_dim,
        n_repeats=tensors[output].n_columns // n_value_rows,
    )
    after_norm = numbers((*_AFTER_MLP_NORM, _ROUTER))
    yield _after_norm(tensors, parts["post_attention_layernorm.weight"][0], after_norm)
    for gate, up, down in zip(numbers(_GATE_PARTS), numbers(_UP_PARTS), numbers(_DOWN_PARTS), strict=True):
        yield ScaleSite(tensors[up].name, tensors[up].n_rows, (up,), (down,), is_norm=False, gate=gate)


def _after_norm(tensors: Sequence[ExportTensor], norm: int, multiplied: tuple[int, ...]) -> ScaleSite:
    return ScaleSite(tensors[norm].name, tensors[norm].n_rows, (norm,), multiplied, is_norm=True)
