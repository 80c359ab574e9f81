"""Run an export plan in bounded memory, so that it can be killed at any point and resumed.

    search   the channels' factors of every site, into the scratch file
    pack     every tensor, into its shard
    check    read the shards back, hash them; then the folder gets its name

Threads, journal and checks are those of GGUF conversion (quant/pipeline.py).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from quant.durable_files import DurableFiles
from quant.export_blas import one_blas_thread
from quant.export_encoder import UnitEncoder
from quant.export_folder import (
    CHECKSUMS,
    FolderContents,
    FolderNames,
    GrowingFile,
    PartialFolder,
    refuse_overlap,
)
from quant.export_plan import ExportPlan
from quant.export_rows import SourceRowReader
from quant.page_cache import SourceCache
from quant.pipeline import (
    ConversionOutcome,
    ConversionProgress,
    OnProgress,
    Recorder,
    explained,
    read_back,
    refuse_changed_source,
    work_through,
)
from quant.readback import Part
from quant.tensor_read import TensorReader

_CHECKSUM_LINE_BYTES = 128  # and more; of a file


@dataclass(frozen=True, slots=True)
class ExportOutcome:
    """What a run has done. `zero_matrices` names packed tensors that hold nothing but zeros."""

    conversion: ConversionOutcome
    zero_matrices: tuple[str, ...] = ()


def run_export(
    plan: ExportPlan,
    out: Path,
    n_threads: int,
    *,
    force: bool = False,
    restart: bool = False,
    files: DurableFiles | None = None,
    on_progress: OnProgress = lambda _: None,
) -> ExportOutcome:
    """Write the plan's folder to `out`, or go on where an earlier run was stopped.

    Args:
        plan: what to do.
        out: the folder; the one above exists.
        n_threads: worker threads; the bytes do not depend on it.
        force: replace an existing output.
        restart: forget what an earlier run has done.
        files: how to write; tests of failing disks pass their own.
        on_progress: called about ten times a second, on this thread; stages are "search", "convert" and "check".

    Raises:
        OutputExists, OutputBusy, ResumeRefused, NotEnoughDisk: see `PartialOutput`; nothing was changed.
        BadWeights: the source holds NaN, infinity, or weights too large.
        CheckpointError: the source was changed meanwhile.
        WriteFailed: the disk failed; run it again to resume.
        KeyboardInterrupt: after the journal was brought up to date.
    """
    files = files or DurableFiles()
    refuse_overlap(plan.source, out)

    def convert(output: PartialFolder) -> tuple[int, tuple[str, ...]]:
        done = output.journal.state.done
        n_resumed = sum(plan.units[number].n_weights for number in done if number >= plan.n_searches)
        zero_matrices = _Run(plan, output, n_threads, files, on_progress).convert()
        refuse_changed_source(plan.source, plan.source_files, plan.identity)
        return n_resumed, zero_matrices

    return write_export(
        plan, out, convert, n_threads=n_threads, files=files, force=force, restart=restart, on_progress=on_progress
    )


def write_export(
    plan: ExportPlan,
    out: Path,
    convert: Callable[[PartialFolder], tuple[int, tuple[str, ...]]],
    *,
    n_threads: int,
    files: DurableFiles,
    force: bool,
    restart: bool,
    on_progress: OnProgress,
) -> ExportOutcome:
    """Open the output, let `convert` do all units that are left, read the shards back and give the folder its name.

    Args:
        convert: returns the weights that an earlier run had packed, and the names of matrices of zeros.
        plan, out, n_threads, files, force, restart, on_progress: see `run_export`.

    Raises: as `run_export`, and what `convert` does.
    """
    names = FolderNames(out)
    with (
        explained(out, plan.total_bytes, files),
        PartialFolder(names, _contents(plan), files, force=force, restart=restart) as output,
    ):
        if output.is_published:
            return ExportOutcome(ConversionOutcome(0, plan.n_weights, 0.0, 0.0))
        started = time.monotonic()
        n_resumed, zero_matrices = convert(output)
        converted = time.monotonic()
        digests = read_back(_parts(plan, output), output, names.partial, n_threads, on_progress)
        output.publish({**plan.carried, CHECKSUMS: checksums({**digests, **_digests_of(plan.carried)})})
        n_done, seconds = plan.n_weights - n_resumed, time.monotonic() - converted
        return ExportOutcome(ConversionOutcome(n_done, n_resumed, converted - started, seconds), zero_matrices)


def checksums(digests: Mapping[str, str]) -> bytes:
    """Return the contents of SHA256SUMS, from hexadecimal digests by file name: what sha256sum writes and checks."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


def _contents(plan: ExportPlan) -> FolderContents:
    n_files = len(plan.shards) + len(plan.carried)
    return FolderContents(
        identity=plan.identity,
        growing=[GrowingFile(shard.name, shard.header, shard.total_bytes) for shard in plan.shards],
        scratch_bytes=plan.scratch_bytes,
        total_bytes=plan.total_bytes + n_files * _CHECKSUM_LINE_BYTES,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """What is left of an export, and with what it is done."""

    plan: ExportPlan
    output: PartialFolder
    n_threads: int
    files: DurableFiles
    on_progress: OnProgress

    def convert(self) -> tuple[str, ...]:
        """Do it; return the names of matrices of zeros that were met."""
        plan = self.plan
        with one_blas_thread(), TensorReader() as reader, SourceCache(plan.source_files) as cache:
            rows = SourceRowReader(reader)
            encoder = UnitEncoder(
                plan, self.output.fds, files=self.files, rows=rows, cache=cache, n_ahead=self.n_threads
            )
            self._stage("search", range(plan.n_searches), encoder)
            self._stage("convert", range(plan.n_searches, len(plan.units)), encoder)
        return tuple(sorted(encoder.zero_matrices))

    def _stage(self, stage: str, numbers: range, encoder: UnitEncoder) -> None:
        done = self.output.journal.state.done
        todo = [number for number in numbers if number not in done]
        n_weights = sum(self.plan.units[number].n_weights for number in numbers)
        n_before = n_weights - sum(self.plan.units[number].n_weights for number in todo)
        recorder = Recorder(self.plan.units, self.output, self.files)

        def report() -> None:
            self.on_progress(ConversionProgress(stage, n_before + recorder.n_weights, n_weights, n_before))

        work_through(todo, encoder, self.n_threads, recorder, report)


def _parts(plan: ExportPlan, output: PartialFolder) -> list[Part]:
    """Return the shards, with their units."""
    return [
        Part(
            shard.name,
            output.fds[file],
            {number: unit for number, unit in enumerate(plan.units) if unit.file == file},
            shard.header,
        )
        for file, shard in enumerate(plan.shards)
    ]


def _digests_of(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
