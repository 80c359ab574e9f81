"""Decide everything about a conversion before the first byte is written: the plan is a value, `--dry-run` prints it.

Reads headers, configuration, tokenizer and chat template of the checkpoint, never weights. The number of threads is no
part of a plan: the output's bytes do not depend on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from quant.chat_templates import read_chat_templates
from quant.checkpoint import open_checkpoint
from quant.gguf_format import GgufValueType
from quant.gguf_write import GgufField, GgufLayout, GgufTensor, plan_layout
from quant.hf_config import read_config
from quant.metadata import model_metadata
from quant.model_source import describe_source
from quant.recipe import OutputType, RecipeModel, choose_types
from quant.source_fingerprint import fingerprint_checkpoint
from quant.tensor_families import FamilyTotal, total_by_family
from quant.tensor_names import TargetTensor, map_tensors
from quant.tokenizer import read_tokenizer
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


def plan_conversion(folder: Path, output: OutputType, repo_id: str | None = None) -> ConversionPlan:
    """Return what converting the checkpoint in `folder` will write.

    Args:
        folder: config.json, tokenizer.json and safetensors.
        output: one of quant.recipe.OUTPUT_TYPES.
        repo_id: "organisation/name" on the hub, for the metadata, where the caller knows it.

    Raises:
        CheckpointError: files, tensors or tokens that are missing or contradict each other.
        FileFormatError: a file that is not what its format demands.
        UnsupportedArchitecture: a family without a table.
        UnsupportedTensor: weights in a format that cannot be read.
    """
    config = read_config(folder)
    checkpoint = open_checkpoint(folder, config.packed)
    targets = map_tensors(config, checkpoint.tensors)
    source = describe_source(folder, config, targets, repo_id)
    tokenizer = read_tokenizer(folder, config.n_vocab)
    metadata = model_metadata(config, tokenizer, read_chat_templates(folder), source)
    model = RecipeModel(
        architecture=config.architecture.gguf_name,
        n_layers=config.n_layers,
        n_experts=config.n_experts,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
    )
    fingerprint = fingerprint_checkpoint(folder, [file.path for file in checkpoint.files])
    return assemble_plan(folder, output, model, targets, metadata, fingerprint=fingerprint, notes=checkpoint.notes)


def assemble_plan(
    source: Path,
    output: OutputType,
    model: RecipeModel,
    targets: Sequence[TargetTensor],
    metadata: Mapping[str, GgufField],
    *,
    fingerprint: Mapping[str, str],
    notes: tuple[str, ...] = (),
) -> ConversionPlan:
    """Choose types, place every tensor and cut the work. Pure.

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
        "header of the output": _digest(layout.header),
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
