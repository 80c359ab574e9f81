"""Run an export plan on weights that come from elsewhere, without their ever being on the disk.

    search   the channels' factors (AWQ): samples of rows, read out of order
    pack     every tensor, once, in the order of the source's files: fetched, hashed, packed at its final place
    check    as in quant/export_pipeline.py

What is packed is covered by the hashes of the source's files. The samples are not, nor are the rows that stand in for
statistics where there is no importance matrix: factors are folded into the weights before and behind a site, so a wrong
one could make rounding worse, and no weight wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from quant.durable_files import DurableFiles
from quant.export_blas import one_blas_thread
from quant.export_encoder import UnitEncoder, packed_together
from quant.export_folder import PartialFolder
from quant.export_inputs import read_to_guess
from quant.export_pipeline import ExportOutcome, write_export
from quant.export_plan import ExportPlan
from quant.export_rows import SourceRowReader
from quant.export_search import sampled_weights
from quant.pipeline import ConversionProgress, Recorder, work_through
from quant.slice_workers import Finished
from quant.stream_hash import StreamedFiles
from quant.stream_run import OnStreamProgress, StreamedWork, StreamOptions, spans_of, without_stream
from quant.stream_spans import Read, Span, rows_read
from quant.tensor_read import TensorReader


def plan_export_spans(plan: ExportPlan, source: StreamedFiles) -> tuple[Span, ...]:
    """Return what packing will read.

    Raises:
        CheckpointError: a file whose hash is not known.
        UnsupportedTensor: weights that cannot be packed in the order in which they lie there.
    """
    return spans_of([*_reads(plan)], source)


def estimate_sampled_bytes(plan: ExportPlan) -> int:
    """Return about how much is read beside that, out of order: samples, and what stands in for statistics."""
    tensors = plan.tensors
    searched = plan.sites[: plan.n_searches]
    n_weights = sum(sampled_weights(plan, site) for site in searched)
    weighed = [number for site in searched for number in site.multiplied if tensors[number].is_packed]
    weighed += [number for number, tensor in enumerate(tensors) if tensor.is_packed]
    n_weights += sum(tensors[whole].n_weights for number in weighed for whole in read_to_guess(plan, number))
    return 2 * n_weights


def run_streamed_export(
    plan: ExportPlan,
    source: StreamedFiles,
    out: Path,
    options: StreamOptions,
    *,
    files: DurableFiles | None = None,
    on_progress: OnStreamProgress = lambda _: None,
) -> ExportOutcome:
    """Write the plan's folder to `out`, or go on where an earlier run was stopped.

    Args:
        plan: what to do.
        source: where the weights are.
        out: the folder; the one above exists.
        options: how.
        files: how to write; tests of failing disks pass their own.
        on_progress: called about ten times a second, on this thread; stages are "search", "convert" and "check".

    Raises:
        DamagedSource: a file had another hash than it should, twice.
        CheckpointError, UnsupportedTensor: see `plan_export_spans`.
        BadWeights, OutputExists, OutputBusy, ResumeRefused, NotEnoughDisk, WriteFailed: see `run_export`.
        KeyboardInterrupt, and what `source` raises: after the journal was brought up to date.
    """
    files = files or DurableFiles()
    spans = plan_export_spans(plan, source)

    def convert(output: PartialFolder) -> tuple[int, tuple[str, ...]]:
        zero_matrices: list[str] = []
        with one_blas_thread(), TensorReader(source) as reader:
            samples = SourceRowReader(reader)

            def units(rows: TensorReader) -> Callable[[int], Finished]:
                encoder = UnitEncoder(plan, output.fds, files=files, rows=SourceRowReader(rows), samples=samples)
                encoder.zero_matrices = zero_matrices
                return encoder

            searching = without_stream(spans, on_progress, is_read=False)
            _search(plan, output, units(reader), options, files=files, on_progress=searching)
            n_resumed = StreamedWork(plan.units, spans, source, units, options, files, on_progress).run(output)
        return n_resumed, tuple(sorted(set(zero_matrices)))

    return write_export(
        plan,
        out,
        convert,
        n_threads=options.n_threads,
        files=files,
        force=options.force,
        restart=options.restart,
        on_progress=without_stream(spans, on_progress, is_read=True),
    )


def _reads(plan: ExportPlan) -> Iterator[Read]:
    for number, unit in enumerate(plan.units):
        source = plan.tensors[unit.subject].source
        if unit.kind == "keep":
            yield rows_read(source.info, source.first_row + unit.first_row, unit.n_rows, number)
        elif unit.kind == "pack":
            for first, n_rows in packed_together(plan.tensors[unit.subject]):
                yield rows_read(source.info, source.first_row + first, n_rows, number)


def _search(
    plan: ExportPlan,
    output: PartialFolder,
    encoder: Callable[[int], Finished],
    options: StreamOptions,
    *,
    files: DurableFiles,
    on_progress: Callable[[ConversionProgress], None],
) -> None:
    """Find the factors that are not known yet. Threads wait for the network most of the time, so there are more."""
    done = output.journal.state.done
    todo = [number for number in range(plan.n_searches) if number not in done]
    n_weights = sum(unit.n_weights for unit in plan.units[: plan.n_searches])
    n_before = n_weights - sum(plan.units[number].n_weights for number in todo)
    recorder = Recorder(plan.units, output, files)

    def report() -> None:
        on_progress(ConversionProgress("search", n_before + recorder.n_weights, n_weights, n_before))

    work_through(todo, encoder, max(options.n_threads, options.n_connections), recorder, report)
