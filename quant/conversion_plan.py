"""Decide everything about a conversion before the first byte is written: the plan is a value, `--dry-run` prints it.

Pure. The number of threads is no part of it: the output's bytes do not depend on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from quant.gguf_format import GgufValueType
from quant.gguf_write import GgufField, GgufLayout, GgufTensor, plan_layout
from quant.recipe import OutputType, RecipeModel, choose_types
from quant.tensor_families import FamilyTotal, total_by_family
from quant.tensor_names import TargetTensor
from quant.work_slices import WorkSlice, cut_slices

ALIGNMENT_BYTES = 4096
"""Tensors start on pages, so that an expert can be read by O_DIRECT straight into its slot."""

_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION in ggml.h


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """What will be made of which source.

    `slices` lie in the order of the file. `identity` names every setting and every source file that the output's bytes
    depend on: a resumed run must have the same. `notes` are remarks on the source, one line each.
    """

    source: Path
    output: OutputType
    model: RecipeModel
    layout: GgufLayout
    slices: tuple[WorkSlice, ...]
    identity: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        """Size of the output file."""
        return self.layout.total_bytes

    @property
    def n_weights(self) -> int:
        """Number of weights in all tensors."""
        return sum(prod(tensor.shape) for tensor in self.layout.placed)

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight over all tensors, header and padding not counted (as llama.cpp counts)."""
        return 8 * sum(tensor.n_bytes for tensor in self.layout.placed) / self.n_weights

    def family_totals(self) -> tuple[FamilyTotal, ...]:
        """Return the totals by family and type, in the order of the file."""
        return total_by_family(
            (tensor.name, tensor.type.name, prod(tensor.shape), tensor.n_bytes) for tensor in self.layout.placed
        )


def assemble_plan(
    source: Path,
    output: OutputType,
    model: RecipeModel,
    targets: Sequence[TargetTensor],
    metadata: Mapping[str, GgufField],
    fingerprint: Mapping[str, str],
    notes: tuple[str, ...] = (),
) -> ConversionPlan:
    """Choose types, place every tensor and cut the work.

    Args:
        source: the checkpoint's folder.
        output: what was asked for.
        model: what the type rules need to know.
        targets: tensors of the file, in order.
        metadata: all of the file's but what follows from the types.
        fingerprint: what identifies the source.
        notes: remarks on the source.
    """
    types = choose_types(output, model, [(target.name, target.shape) for target in targets], has_imatrix=False)
    tensors = [GgufTensor(target.name, target.shape, types[target.name]) for target in targets]
    layout = plan_layout({**metadata, **_type_metadata(output)}, tensors, ALIGNMENT_BYTES)
    slices = cut_slices(targets, layout.placed)
    identity = {
        "output type": output.name,
        **fingerprint,
        "metadata": _digest(layout.header),
        "division of work": _digest(" ".join(f"{work.offset_bytes}+{work.n_bytes}" for work in slices).encode()),
    }
    return ConversionPlan(source, output, model, layout, slices, identity, notes)


def _type_metadata(output: OutputType) -> dict[str, GgufField]:
    fields = {"general.file_type": GgufField(GgufValueType.UINT32, output.ftype_id)}
    if output.is_quantized:
        fields["general.quantization_version"] = GgufField(GgufValueType.UINT32, _QUANTIZATION_VERSION)
    return fields


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
