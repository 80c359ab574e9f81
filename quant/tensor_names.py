"""From the tensors of a checkpoint to those of a GGUF file: names, order, stacking. Rows are pointed at, not read.

Order: embeddings, layers ascending with each layer's three expert tensors adjacent, output norm, output.
Knows nothing of types, offsets or files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from quant.architectures import EMBEDDINGS, OUTPUT, OUTPUT_NORM, TensorPattern
from quant.errors import CheckpointError, UnsupportedTensor
from quant.hf_config import HfConfig
from quant.shown import some
from quant.source_tensor import DecodedTensor, SourceTensor
from quant.tensor_info import TensorInfo
from quant.tensor_read import read_rows_f32

_READABLE = ("BF16", "F16", "F32")
_N_NAMED = 4  # tensors named in an error; the rest are counted


@dataclass(frozen=True, slots=True)
class SourceRows:
    """`n_rows` consecutive rows of a checkpoint's tensor, from `first_row` (counted over all outer dimensions)."""

    info: SourceTensor
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


def map_tensors(config: HfConfig, tensors: Mapping[str, SourceTensor]) -> tuple[TargetTensor, ...]:
    """Return the tensors of the GGUF file in file order.

    A `lm_head.weight` beside tied embeddings is left out: transformers does not read it either. So are biases beside
    packed weights that the family does not have, once they have been read and are zero.

    Raises:
        CheckpointError: tensors that the configuration demands are missing, others are not known, or shapes differ.
        UnsupportedTensor: a dtype that cannot be read, or fused experts stored transposed: rows cannot be streamed.
    """
    search = _Search(config, tensors)
    targets = tuple(search.targets())
    search.refuse_problems()
    return targets


def target_shapes(config: HfConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the GGUF file, in file order, from the configuration alone."""
    layer = config.architecture.layer_tensors
    patterns = [("", EMBEDDINGS), *((f"blk.{i}.", one) for i in range(config.n_layers) for one in layer)]
    patterns += [("", OUTPUT_NORM), *([] if config.tied_embeddings else [("", OUTPUT)])]
    lengths = config.lengths
    return {prefix + one.target: tuple(lengths[name] for name in one.shape) for prefix, one in patterns}


@dataclass(slots=True)
class _Search:
    """Walks the tables once; notes what it used and what it did not find."""

    config: HfConfig
    tensors: Mapping[str, SourceTensor]
    used: set[str] = field(default_factory=set)
    missing: dict[str, None] = field(default_factory=dict)
    misshapen: dict[str, str] = field(default_factory=dict)  # name: what is wrong with it

    def targets(self) -> Iterator[TargetTensor]:
        yield from self._target(EMBEDDINGS, "", "")
        for layer in range(self.config.n_layers):
            for pattern in self.config.architecture.layer_tensors:
                yield from self._target(pattern, f"model.layers.{layer}.", f"blk.{layer}.")
        yield from self._target(OUTPUT_NORM, "", "")
        if not self.config.tied_embeddings:
            yield from self._target(OUTPUT, "", "")

    def _target(self, pattern: TensorPattern, source_prefix: str, target_prefix: str) -> Iterator[TargetTensor]:
        """Yield the pattern's tensor; none where a source is missing or misshapen, which is noted."""
        shape = tuple(self.config.lengths[name] for name in pattern.shape)
        fused = None if pattern.fused is None else self._name_present(source_prefix + pattern.fused)
        if fused is not None:
            sources = self._fused(fused, pattern, shape)
        elif "{expert}" in pattern.source:
            names = (source_prefix + pattern.source.format(expert=expert) for expert in range(shape[0]))
            sources = [self._whole(name, shape[1:]) for name in names]
        else:
            sources = [self._whole(source_prefix + pattern.source, shape)]
        found = tuple(source for source in sources if source is not None)
        if len(found) == len(sources):
            yield TargetTensor(target_prefix + pattern.target, shape, found)

    def _name_present(self, name: str) -> str | None:
        return next((candidate for candidate in (name, name + ".weight") if candidate in self.tensors), None)

    def _whole(self, name: str, shape: tuple[int, ...]) -> SourceRows | None:
        info = self._take(name, shape)
        return None if info is None else SourceRows(info, 0, info.n_rows)

    def _fused(self, name: str, pattern: TensorPattern, shape: tuple[int, ...]) -> list[SourceRows | None]:
        """Return each expert's rows of a tensor (n_experts, parts x rows, columns).

        A square matrix does not tell whether it is transposed. gate_up is square if n_embd = 2 n_ff, down if
        n_embd = n_ff: never both, so one of the two always tells.
        """
        n_experts, n_rows, n_columns = shape
        whole = (n_experts, n_rows * pattern.fused_parts, n_columns)
        if name in self.tensors and self.tensors[name].shape == (whole[0], whole[2], whole[1]) != whole:
            raise UnsupportedTensor(
                f"{name} is stored transposed: {whole[0]} x {whole[2]} x {whole[1]} instead of "
                f"{whole[0]} x {whole[1]} x {whole[2]}",
                "load the checkpoint with transformers 5 and save it again",
            )
        info = self._take(name, whole)
        if info is None:
            return [None]
        first = pattern.fused_part * n_rows
        return [SourceRows(info, expert * whole[1] + first, n_rows) for expert in range(n_experts)]

    def _take(self, name: str, shape: tuple[int, ...]) -> SourceTensor | None:
        info = self.tensors.get(name)
        self.used.add(name)
        if info is None:
            self.missing[name] = None
        elif info.shape != shape:
            self.misshapen[name] = f"{name} {_shown(info.shape)} instead of {_shown(shape)}"
        elif isinstance(info, TensorInfo) and info.dtype not in _READABLE:
            raise UnsupportedTensor(
                f"{info.path.name}: {name} is stored as {info.dtype}; only {', '.join(_READABLE)} can be converted"
            )
        else:
            return info
        return None

    def refuse_problems(self) -> None:
        extra = [name for name in self.tensors if name not in self.used and not self._may_be_left_out(name)]
        problems = (
            ("missing", list(self.missing)),
            ("of the wrong shape", list(self.misshapen.values())),
            ("not known", extra),
        )
        texts = [f"{len(names)} {what}: {some(names, _N_NAMED)}" for what, names in problems if names]
        if texts:
            raise CheckpointError(
                f"the tensors do not fit config.json ({self.config.architecture.hf_name}): {'; '.join(texts)}",
                "is the download complete, and does config.json belong to these weights?",
            )

    def _may_be_left_out(self, name: str) -> bool:
        """Tensors that checkpoints carry though nothing reads them."""
        return (
            name.endswith(".rotary_emb.inv_freq")
            or (self.config.tied_embeddings and name == OUTPUT.source)
            or self._is_bias_of_zeros(name)
        )

    def _is_bias_of_zeros(self, name: str) -> bool:
        """Tell whether `name` is what GPTQ quantizers add to packed weights of layers that have no bias."""
        module, _, kind = name.rpartition(".")
        is_packed = isinstance(self.tensors.get(f"{module}.weight"), DecodedTensor)
        return kind == "bias" and is_packed and not read_rows_f32(self.tensors[name]).any()


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
