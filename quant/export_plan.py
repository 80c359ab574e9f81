"""Decide everything about an export before the first byte is written: the plan is a value, `--dry-run` prints it.

    OUT/model-00001-of-00003.safetensors …   shards, header first, every tensor at a known offset
    OUT/model.safetensors.index.json         where more than one shard is needed
    OUT/config.json, tokenizer.json …        known now, written at the end

Work is cut into units that are stretches of a shard, or of the scratch file that holds the channels' factors (AWQ):
units that search factors come first, all others read what those found. Reads headers, configuration and statistics of
the checkpoint, never weights. The number of threads is no part of a plan: the bytes do not depend on it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from quant.checkpoint import INDEX_FILE, open_checkpoint
from quant.errors import UnsupportedTensor
from quant.export_cautions import export_cautions, unpackable
from quant.export_config import carried_files, export_config
from quant.export_folds import ScaleSite, TensorFolds, find_sites, folds_of
from quant.export_format import ExportFormat
from quant.export_statistics import ActivationStatistics, fit_statistics
from quant.export_tensors import ExportTensor, export_tensors
from quant.hf_config import read_config
from quant.imatrix import Imatrix
from quant.safetensors_write import NewTensor, ShardLayout, index_json, plan_shards
from quant.second_moments import SecondMoments
from quant.source_files import DISK, SourceFiles
from quant.source_fingerprint import fingerprint_checkpoint
from quant.source_tensor import SourceTensor
from quant.tensor_families import FamilyTotal, total_by_family
from quant.tensor_names import map_tensors
from quant.work_slices import MAX_SLICE_WEIGHTS

MAX_SHARD_BYTES = 5_000_000_000
_METHOD = "1"  # changes whenever the same input gives other bytes


@dataclass(frozen=True, slots=True)
class ExportUnit:
    """Work that ends in one write of consecutive bytes.

    search    the factors of site `subject`, f32, into the scratch file
    keep      `n_rows` rows from `first_row` of tensor `subject`, 16 bits each
    pack      all parts of tensor `subject`
    """

    kind: Literal["search", "keep", "pack"]
    subject: int
    file: int  # number of the shard; the scratch file follows the last
    offset_bytes: int
    n_bytes: int
    n_weights: int
    first_row: int = 0
    n_rows: int = 0


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """What will be made of which source.

    `sites` are all places where the model can be scaled, `folds` by which of them each tensor is, `origins` which one
    lies in front of a tensor. `units` have the searches first. `carried` are the contents of the small files, by name.
    `identity` names every setting and every source file that the output's bytes depend on: a resumed run must have the
    same. `notes` are remarks on the source, `cautions` what to know about the result, one line each.
    """

    source: Path
    kind: ExportFormat
    tensors: tuple[ExportTensor, ...]
    sites: tuple[ScaleSite, ...]
    folds: tuple[TensorFolds, ...]
    origins: tuple[int | None, ...]
    shards: tuple[ShardLayout, ...]
    units: tuple[ExportUnit, ...]
    statistics: ActivationStatistics
    identity: Mapping[str, str]
    carried: Mapping[str, bytes]
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = field(default=())

    @property
    def total_bytes(self) -> int:
        """Size of all files together."""
        return sum(shard.total_bytes for shard in self.shards) + sum(map(len, self.carried.values()))

    @property
    def n_weights(self) -> int:
        """Number of weights in all tensors."""
        return sum(tensor.n_weights for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight over all tensors, scales and zeros included, headers not."""
        return 8 * sum(tensor.n_bytes for shard in self.shards for tensor in shard.tensors) / self.n_weights

    @property
    def n_searches(self) -> int:
        """Number of units that search factors; their numbers come first."""
        return sum(unit.kind == "search" for unit in self.units)

    @property
    def scratch_bytes(self) -> int:
        """Length of the scratch file."""
        return sum(unit.n_bytes for unit in self.units if unit.kind == "search")

    @property
    def source_files(self) -> set[Path]:
        """Files that weights are read from."""
        return {path for tensor in self.tensors for path in tensor.source.info.paths}

    def type_name(self, tensor: ExportTensor) -> str:
        """Return how a tensor is stored, in a word."""
        return f"{self.kind.name.upper()}-4bit" if tensor.is_packed else kept_type(tensor.source.info)

    def stored_bytes(self, tensor: ExportTensor) -> int:
        """Return the bytes of a tensor in the output."""
        return self.kind.packed_bytes(tensor.n_rows, tensor.n_columns) if tensor.is_packed else 2 * tensor.n_weights

    def family_totals(self) -> tuple[FamilyTotal, ...]:
        """Return the totals by family and type, in the order of the output."""
        return total_by_family((t.name, self.type_name(t), t.n_weights, self.stored_bytes(t)) for t in self.tensors)


def plan_export(
    folder: Path,
    kind: ExportFormat,
    *,
    imatrix: Imatrix | None = None,
    moments: SecondMoments | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    tool: str = "qwenctl",
    files: SourceFiles = DISK,
) -> ExportPlan:
    """Return what exporting the checkpoint in `folder` will write.

    Args:
        folder: config.json, tokenizer and safetensors.
        kind: the format.
        imatrix: statistics of activations.
        moments: second moments of activations; where they are known, errors of a matrix make up for each other.
        max_shard_bytes: of one file's tensors.
        tool: name and version of the program, for people.
        files: where the weights are.

    Raises:
        CheckpointError, FileFormatError, UnsupportedArchitecture: what is wrong with the checkpoint.
        ImatrixMismatch: statistics of another model.
        UnsupportedTensor: a matrix that groups do not divide, or weights in a format that cannot be read.
    """
    config = read_config(folder)
    checkpoint = open_checkpoint(folder, config.packed, files)
    targets = map_tensors(config, checkpoint.tensors)
    tensors = export_tensors(config, targets)
    _refuse_unpackable(tensors, kind)
    fitted = fit_statistics(tensors, {target.name: target.shape for target in targets}, imatrix, moments)
    sites = find_sites(config, tensors)
    searched = sites if kind.name == "awq" else ()
    shards = plan_shards((_bundle(tensor, kind) for tensor in tensors), max_shard_bytes)
    units = (*_search_units(searched, tensors, len(shards)), *_tensor_units(tensors, kind, shards))
    carried = carried_files(folder, export_config(folder, config, kind, tool), kind)
    carried |= {INDEX_FILE: index_json(shards)} if len(shards) > 1 else {}
    return ExportPlan(
        source=folder,
        kind=kind,
        tensors=tensors,
        sites=sites,
        folds=folds_of(searched, len(tensors)),
        origins=tuple(fold.columns for fold in folds_of(sites, len(tensors))),
        shards=shards,
        units=units,
        statistics=fitted.statistics,
        identity={
            "format": f"{kind.name}, groups of {kind.group_size}",
            "method": _METHOD,
            **_identity_of_statistics(imatrix, moments),
            **fingerprint_checkpoint(folder, [file.path for file in checkpoint.files], files),
            "headers of the shards": _digest(*(shard.header for shard in shards)),
            "division of work": _digest(*(f"{u.kind} {u.file} {u.offset_bytes}+{u.n_bytes} ".encode() for u in units)),
        },
        carried=carried,
        notes=checkpoint.notes,
        cautions=export_cautions(config, kind, fitted),
    )


def _identity_of_statistics(imatrix: Imatrix | None, moments: SecondMoments | None) -> dict[str, str]:
    return {
        "imatrix": "none" if imatrix is None else imatrix.digest,
        "second moments": "none" if moments is None else DISK.describe(moments.path),
    }


def kept_type(info: SourceTensor) -> str:
    """Return the type in which a tensor is kept: F16 stays, all else is BF16, which has the range of F32."""
    return "F16" if info.dtype == "F16" else "BF16"


def _refuse_unpackable(tensors: Sequence[ExportTensor], kind: ExportFormat) -> None:
    for tensor in tensors:
        problem = unpackable(tensor.name, tensor.n_rows, tensor.n_columns, kind) if tensor.is_packed else None
        if problem is not None:
            raise UnsupportedTensor(*problem)


def _bundle(tensor: ExportTensor, kind: ExportFormat) -> tuple[NewTensor, ...]:
    if tensor.is_packed:
        return kind.parts(tensor.module, tensor.n_rows, tensor.n_columns)
    return (NewTensor(tensor.name, kept_type(tensor.source.info), tensor.shape),)


def _search_units(sites: Sequence[ScaleSite], tensors: Sequence[ExportTensor], scratch: int) -> Iterator[ExportUnit]:
    offset = 0
    for number, site in enumerate(sites):
        n_bytes = 4 * site.n_channels
        n_weights = sum(tensors[tensor].n_weights for tensor in site.multiplied)
        yield ExportUnit("search", number, scratch, offset, n_bytes, n_weights)
        offset += n_bytes


def _tensor_units(
    tensors: Sequence[ExportTensor], kind: ExportFormat, shards: Sequence[ShardLayout]
) -> Iterator[ExportUnit]:
    places = {placed.name: (file, placed) for file, shard in enumerate(shards) for placed in shard.tensors}
    for number, tensor in enumerate(tensors):
        file, first = places[_bundle(tensor, kind)[0].name]
        if tensor.is_packed:
            n_bytes = kind.packed_bytes(tensor.n_rows, tensor.n_columns)
            yield ExportUnit("pack", number, file, first.offset_bytes, n_bytes, tensor.n_weights)
            continue
        rows, n_columns = tensor.source, tensor.source.info.n_columns
        step = max(1, MAX_SLICE_WEIGHTS // n_columns)
        for row in range(0, rows.n_rows, step):
            n_rows = min(step, rows.n_rows - row)
            offset, n_weights = first.offset_bytes + 2 * row * n_columns, n_rows * n_columns
            yield ExportUnit("keep", number, file, offset, 2 * n_weights, n_weights, row, n_rows)


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
