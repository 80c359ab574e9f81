"""Run a conversion plan on weights that come from elsewhere, without their ever being on the disk.

What stands under the output's final name in the end is made of files whose hashes are their publisher's. The last
steps, reading back and renaming, are those of quant/pipeline.py; the way there is quant/stream_run.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from quant.codecs.row_encoder import RowEncoder
from quant.conversion_plan import ConversionPlan
from quant.durable_files import DurableFiles
from quant.partial_output import PartialFile
from quant.pipeline import ConversionOutcome, write_output
from quant.slice_encoder import SliceEncoder
from quant.slice_workers import Finished
from quant.stream_hash import StreamedFiles
from quant.stream_run import OnStreamProgress, StreamedWork, StreamOptions, spans_of, without_stream
from quant.stream_spans import Span, slice_reads
from quant.tensor_read import TensorReader


def plan_spans(plan: ConversionPlan, source: StreamedFiles) -> tuple[Span, ...]:
    """Return what `run_streamed` will read.

    Raises:
        CheckpointError: a file whose hash is not known.
        UnsupportedTensor: weights that cannot be encoded in the order in which they lie there.
    """
    return spans_of([*slice_reads(plan.slices)], source)


def run_streamed(
    plan: ConversionPlan,
    source: StreamedFiles,
    out: Path,
    encoder: RowEncoder,
    options: StreamOptions,
    *,
    files: DurableFiles | None = None,
    on_progress: OnStreamProgress = lambda _: None,
) -> ConversionOutcome:
    """Write the plan's file to `out`, or go on where an earlier run was stopped.

    Args:
        plan: what to do.
        source: where the weights are.
        out: the file; its folder exists.
        encoder: makes the bytes.
        options: how.
        files: how to write; tests of failing disks pass their own.
        on_progress: called about ten times a second, on this thread.

    Raises:
        DamagedSource: a file had another hash than it should, twice.
        CheckpointError, UnsupportedTensor: see `plan_spans`.
        BadWeights, OutputExists, OutputBusy, ResumeRefused, NotEnoughDisk, WriteFailed: see `quant.pipeline.run_plan`.
        KeyboardInterrupt, and what `source` raises: after the journal was brought up to date.
    """
    files = files or DurableFiles()
    spans = plan_spans(plan, source)

    def convert(output: PartialFile) -> int:
        def slices(reader: TensorReader) -> Callable[[int], Finished]:
            return SliceEncoder(plan, output.fd, encoder, files=files, reader=reader)

        return StreamedWork(plan.slices, spans, source, slices, options, files, on_progress).run(output)

    return write_output(
        plan,
        out,
        encoder.identity,
        convert,
        n_threads=options.n_threads,
        files=files,
        force=options.force,
        restart=options.restart,
        on_progress=without_stream(spans, on_progress, is_read=True),
    )
