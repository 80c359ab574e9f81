"""Export a Hugging Face checkpoint to AWQ or GPTQ: which statistics go in, where the folder goes, and what it cost.

The work is quant's; this service opens files, checks outputs and adds the figures that a command prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from quant.codecs.int4_search import is_compiled
from quant.export_format import ExportFormat
from quant.export_pipeline import ExportOutcome, run_export
from quant.export_plan import MAX_SHARD_BYTES, ExportPlan, plan_export
from quant.imatrix_file import read_imatrix
from quant.pipeline import ConversionProgress
from quant.second_moments import read_second_moments
from quant.source_files import DISK, SourceFiles
from qwenctl import __version__
from qwenctl.errors import InvalidRequest
from qwenctl.services.machine_limits import peak_rss_bytes, usable_cores
from qwenctl.services.typed_path import typed_path

FormatName = Literal["awq", "gptq"]


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and how.

    Args:
        source: the checkpoint's folder.
        format_name: the format.
        imatrix: file of an importance matrix.
        hessians: file of second moments.
        group_size: weights that share a scale.
        max_shard_bytes: of one file's tensors.
    """

    source: Path
    format_name: FormatName
    imatrix: Path | None = None
    hessians: Path | None = None
    group_size: int = 128
    max_shard_bytes: int = MAX_SHARD_BYTES


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A finished export, in figures."""

    path: Path
    format: str
    n_shards: int
    n_bytes: int
    n_weights: int
    bits_per_weight: float
    n_weights_resumed: int  # of n_weights, those that an earlier run had done
    seconds: float  # all of this run: searching, packing, reading back, publishing
    weights_per_s: float  # of searching and packing
    n_threads: int
    peak_rss_bytes: int  # of the process, whatever else it did
    warnings: tuple[str, ...]  # what was found on the way


def resolve_folder(out: str) -> Path:
    """Return the folder that OUT means: a path whose parent exists.

    Raises:
        InvalidRequest: the folder above does not exist, or it looks like a file of another format.
    """
    path = typed_path(out)
    if path.suffix == ".gguf":
        raise InvalidRequest(f"{out} names a GGUF file; AWQ and GPTQ are folders", f"write {path.with_suffix('')}")
    if not path.absolute().parent.is_dir():
        raise InvalidRequest(f"the folder {path.parent} does not exist", f"mkdir -p {path.parent}")
    return path


def plan(request: ExportRequest) -> ExportPlan:
    """Return what `write_plan` will do.

    Raises:
        InvalidRequest: the source is a file.
        QuantError: what is wrong with the checkpoint or the statistics.
    """
    if request.source.is_file():
        raise InvalidRequest(f"{request.source} is a file; AWQ and GPTQ are made from a Hugging Face checkpoint folder")
    return plan_of(request)


def plan_of(request: ExportRequest, files: SourceFiles = DISK) -> ExportPlan:
    """Return the plan for a checkpoint whose weights are in `files`. Raises what is wrong with it or the statistics."""
    return plan_export(
        request.source,
        ExportFormat(request.format_name, request.group_size),
        imatrix=None if request.imatrix is None else read_imatrix(request.imatrix),
        moments=None if request.hessians is None else read_second_moments(request.hessians),
        max_shard_bytes=request.max_shard_bytes,
        tool=f"qwenctl:{__version__}",
        files=files,
    )


def write_plan(
    planned: ExportPlan,
    out: Path,
    *,
    n_threads: int | None = None,
    force: bool = False,
    restart: bool = False,
    on_progress: Callable[[ConversionProgress], None] = lambda _: None,
) -> ExportResult:
    """Write the plan's folder, or go on where an earlier run was stopped.

    Args:
        planned: what to do.
        out: where to, as `resolve_folder` returns it.
        n_threads: None: as many as this process may use.
        force: replace an existing export.
        restart: forget what an earlier run has done.
        on_progress: called about ten times a second.

    Raises:
        QuantError: see `quant.export_pipeline.run_export`.
        KeyboardInterrupt: what is done is kept.
    """
    started = time.monotonic()
    n_threads = n_threads or usable_cores()
    outcome = run_export(planned, out, n_threads, force=force, restart=restart, on_progress=on_progress)
    return export_result(planned, out, outcome, started, n_threads)


def export_result(
    planned: ExportPlan, out: Path, outcome: ExportOutcome, started_s: float, n_threads: int
) -> ExportResult:
    """Return the figures of an export that began at `started_s`, on the monotonic clock, and has ended now."""
    done = outcome.conversion
    return ExportResult(
        path=out,
        format=planned.kind.name,
        n_shards=len(planned.shards),
        n_bytes=planned.total_bytes,
        n_weights=planned.n_weights,
        bits_per_weight=planned.bits_per_weight,
        n_weights_resumed=done.n_weights_resumed,
        seconds=time.monotonic() - started_s,
        weights_per_s=done.n_weights / done.convert_s if done.convert_s else 0.0,
        n_threads=n_threads,
        peak_rss_bytes=peak_rss_bytes(),
        warnings=tuple(f"{name} holds nothing but zeros" for name in outcome.zero_matrices),
    )


def speed_note() -> str | None:
    """Return what to say where the compiled search is missing, None where it is there."""
    if is_compiled():
        return None
    return "the compiled search for scales was not built: numpy does the same, at a twentieth of its speed"
