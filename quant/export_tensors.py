"""The tensors of an exported checkpoint, by Hugging Face's names: which are packed to 4 bits, which stay as they are.

Experts are matrices one by one, however the source stores them: that is how the loaders of AWQ and GPTQ want them.
Linear projections are packed. Embeddings, output matrix, norms, biases and routers stay in 16 bits.
Knows nothing of packings or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quant.architectures import EMBEDDINGS, OUTPUT, OUTPUT_NORM, TensorPattern
from quant.hf_config import HfConfig
from quant.tensor_names import SourceRows, TargetTensor

_PACKED = "_proj.weight"


@dataclass(frozen=True, slots=True)
class ExportTensor:
    """One tensor: its name, where its rows are read, and its place in the model.

    `shape` is (rows, columns), or (n,) of a norm or bias. `gguf_name` names the statistics of its input; they are those
    of matrix `expert` there (0 where there are no experts).
    """

    name: str
    source: SourceRows
    shape: tuple[int, ...]
    gguf_name: str
    layer: int | None = None
    expert: int | None = None

    @property
    def is_packed(self) -> bool:
        """Whether it is quantized."""
        return self.name.endswith(_PACKED)

    @property
    def matrix(self) -> int:
        """Number among the matrices of the GGUF tensor."""
        return self.expert or 0

    @property
    def module(self) -> str:
        """Name of the module that holds it."""
        return self.name.rpartition(".")[0]

    @property
    def part(self) -> str:
        """Name within its layer, or expert: self_attn.q_proj.weight, up_proj.weight, mlp.gate.weight."""
        if self.expert is not None:
            return self.name.rpartition(".experts.")[2].partition(".")[2]
        return self.name if self.layer is None else self.name.removeprefix(layer_prefix(self.layer))

    @property
    def n_rows(self) -> int:
        """Number of rows, of a vector its length: what a scale of rows has an entry for."""
        return self.shape[0]

    @property
    def n_columns(self) -> int:
        """Length of a row."""
        return self.shape[-1]

    @property
    def n_weights(self) -> int:
        """Number of elements."""
        return self.source.n_rows * self.source.info.n_columns


def export_tensors(config: HfConfig, targets: Sequence[TargetTensor]) -> tuple[ExportTensor, ...]:
    """Return the tensors in the order of the output: layers ascending, in each all of an expert together.

    Args:
        config: of the checkpoint.
        targets: its tensors, as `quant.tensor_names.map_tensors` found them.
    """
    by_name = {target.name: target for target in targets}
    tensors = list(_plain(EMBEDDINGS, by_name[EMBEDDINGS.target], None))
    for layer in range(config.n_layers):
        found = [(pattern, by_name[f"blk.{layer}.{pattern.target}"]) for pattern in config.architecture.layer_tensors]
        plain = [(pattern, target) for pattern, target in found if "{expert}" not in pattern.source]
        stacked = [(pattern, target) for pattern, target in found if "{expert}" in pattern.source]
        for pattern, target in plain:
            tensors += _plain(pattern, target, layer)
        for expert in range(config.n_experts if stacked else 0):
            tensors += [_expert(pattern, target, layer, expert) for pattern, target in stacked]
    for pattern in (OUTPUT_NORM, OUTPUT):
        if pattern.target in by_name:
            tensors += _plain(pattern, by_name[pattern.target], None)
    return tuple(tensors)


def layer_prefix(layer: int) -> str:
    """Return what the names of a layer's tensors begin with."""
    return f"model.layers.{layer}."


def _plain(pattern: TensorPattern, target: TargetTensor, layer: int | None) -> Iterator[ExportTensor]:
    prefix = "" if layer is None else layer_prefix(layer)
    yield ExportTensor(prefix + pattern.source, target.sources[0], target.shape, target.name, layer)


def _expert(pattern: TensorPattern, target: TargetTensor, layer: int, expert: int) -> ExportTensor:
    name = layer_prefix(layer) + pattern.source.format(expert=expert)
    return ExportTensor(name, target.sources[expert], target.shape[1:], target.name, layer, expert)
