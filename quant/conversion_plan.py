"""Decide everything about a conversion before the first byte is written: the plan is a value, `--dry-run` prints it.

Reads headers, configuration, tokenizer and chat template of the checkpoint, never weights. The number of threads is no
part of a plan: the output's bytes do not depend on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from quant.chat_templates import read_chat_templates
from quant.checkpoint import open_checkpoint
from quant.ggml_types import GgmlType
from quant.gguf_format import GgufValueType
from quant.gguf_write import GgufField, GgufLayout, GgufTensor, plan_layout
from quant.hf_config import read_config
from quant.imatrix import Imatrix
from quant.imatrix_fit import ImatrixFit, check_fits
from quant.metadata import model_metadata
from quant.model_source import describe_source
from quant.recipe import OutputType, RecipeModel, choose_types
from quant.source_files import DISK, SourceFiles
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

    `slices` lie in the order of the file. `fit` is the importance matrix that errors are weighed by, where there is
    one. `identity` names every setting and every source file that the output's bytes depend on: a resumed run must have
    the same. `notes` are remarks on the source, one line each.
    """

    source: Path
    output: OutputType
    model: RecipeModel
    layout: GgufLayout
    slices: tuple[WorkSlice, ...]
    identity: Mapping[str, str]
    notes: tuple[str, ...] = ()
    fit: ImatrixFit | None = None

    @property
    def imatrix(self) -> Imatrix | None:
        """What errors are weighed by."""
        return None if self.fit is None else self.fit.imatrix

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


@dataclass(frozen=True, slots=True)
class ConversionSource:
    """A checkpoint as it was read: everything that a plan needs and that no choice of types changes.

    `metadata` is that of the file but for what follows from types. `fingerprint` identifies the source's files, `files`
    says where the weights are.
    """

    folder: Path
    model: RecipeModel
    targets: tuple[TargetTensor, ...]
    metadata: Mapping[str, GgufField]
    fingerprint: Mapping[str, str]
    notes: tuple[str, ...] = ()
    files: SourceFiles = DISK

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The file's tensors in order: GGUF name, shape in numpy order."""
        return {target.name: target.shape for target in self.targets}


@dataclass(frozen=True, slots=True)
class Importance:
    """What errors are weighed by: an importance matrix and the name of its file."""

    imatrix: Imatrix
    file_name: str


def plan_conversion(
    folder: Path,
    output: OutputType,
    repo_id: str | None = None,
    *,
    importance: Importance | None = None,
) -> ConversionPlan:
    """Return what converting the checkpoint in `folder` will write: `read_source`, then `plan_source`.

    Raises: as these two.
    """
    return plan_source(read_source(folder, repo_id), output, importance=importance)


def read_source(folder: Path, repo_id: str | None = None, files: SourceFiles = DISK) -> ConversionSource:
    """Read what is to be converted: headers, configuration, tokenizer and chat templates, no weights.

    Args:
        folder: config.json, tokenizer.json and safetensors.
        repo_id: "organisation/name" on the hub, for the metadata, where the caller knows it.
        files: where the weights are.

    Raises:
        CheckpointError: files, tensors or tokens that are missing or contradict each other.
        FileFormatError: a file that is not what its format demands.
        UnsupportedArchitecture: a family without a table.
        UnsupportedTensor: weights in a format that cannot be read.
    """
    config = read_config(folder)
    checkpoint = open_checkpoint(folder, config.packed, files)
    targets = map_tensors(config, checkpoint.tensors)
    source = describe_source(folder, config, targets, repo_id)
    tokenizer = read_tokenizer(folder, config.n_vocab)
    model = RecipeModel(
        architecture=config.architecture.gguf_name,
        n_layers=config.n_layers,
        n_experts=config.n_experts,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
    )
    return ConversionSource(
        folder=folder,
        model=model,
        targets=tuple(targets),
        metadata=model_metadata(config, tokenizer, read_chat_templates(folder), source),
        fingerprint=fingerprint_checkpoint(folder, [file.path for file in checkpoint.files], files),
        notes=checkpoint.notes,
        files=files,
    )


def plan_source(
    source: ConversionSource,
    output: OutputType,
    *,
    types: Mapping[str, GgmlType] | None = None,
    importance: Importance | None = None,
) -> ConversionPlan:
    """Choose types, place every tensor and cut the work. Pure.

    Args:
        source: what is to be converted.
        output: what was asked for; names the file's type in the metadata.
        types: of every tensor, by name; None: by the rules for `output`.
        importance: what to weigh errors by.

    Raises:
        ImatrixMismatch: it is another model's.
    """
    shapes = source.shapes
    fit = None if importance is None else check_fits(importance.imatrix, shapes)
    if types is None:
        types = choose_types(output, source.model, list(shapes.items()), has_imatrix=fit is not None)
    tensors = [GgufTensor(name, shape, types[name]) for name, shape in shapes.items()]
    metadata = {**source.metadata, **_type_metadata(output), **_importance_metadata(importance)}
    layout = plan_layout(metadata, tensors, ALIGNMENT_BYTES)
    slices = cut_slices(source.targets, layout.placed)
    identity = {
        "output type": output.name,
        **source.fingerprint,
        "importance matrix": "none" if fit is None else fit.imatrix.digest,
        "header of the output": _digest(layout.header),
        "division of work": _digest(" ".join(f"{work.offset_bytes}+{work.n_bytes}" for work in slices).encode()),
    }
    return ConversionPlan(
        source=source.folder,
        output=output,
        model=source.model,
        layout=layout,
        slices=slices,
        identity=identity,
        notes=source.notes,
        fit=fit,
    )


def _importance_metadata(importance: Importance | None) -> dict[str, GgufField]:
    """The keys that llama-quantize writes (tools/quantize/quantize.cpp)."""
    if importance is None:
        return {}
    imatrix = importance.imatrix
    return {
        "quantize.imatrix.file": GgufField(GgufValueType.STRING, importance.file_name),
        "quantize.imatrix.dataset": GgufField(GgufValueType.STRING, ", ".join(imatrix.datasets)),
        "quantize.imatrix.entries_count": GgufField(GgufValueType.UINT32, len(imatrix.entries)),
        "quantize.imatrix.chunks_count": GgufField(GgufValueType.UINT32, imatrix.n_chunks),
    }


def _type_metadata(output: OutputType) -> dict[str, GgufField]:
    fields = {"general.file_type": GgufField(GgufValueType.UINT32, output.ftype_id)}
    if output.is_quantized:
        fields["general.quantization_version"] = GgufField(GgufValueType.UINT32, _QUANTIZATION_VERSION)
    return fields


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
