"""Run a conversion plan on weights that come from elsewhere, without their ever being on the disk.

    fetching threads   ─┐
    hashing thread      ├─ quant/stream_window.py: spans of the source, in order
    worker threads     ─┘  each: a slice of a span, encoded, written at its final offset
    calling thread         when a quarter of the window is done: sync the output, record the slices and, with the state
                           of the hash, how far the source was read

A resumed run goes on behind the last mark of each file, and does again what an earlier one did beyond it: those bytes
were hashed by nobody that is left. What then stands under the output's final name is made of files whose hashes are the
publisher's. The last steps, reading back and renaming, are those of quant/pipeline.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from quant.codecs.row_encoder import RowEncoder
from quant.conversion_plan import ConversionPlan
from quant.durable_files import DurableFiles
from quant.errors import BadWeights, DamagedSource
from quant.journal import ReadMark
from quant.partial_output import PartialFile
from quant.pipeline import ConversionOutcome, ConversionProgress, Recorder, write_output
from quant.slice_encoder import SliceEncoder
from quant.slice_workers import Finished, SliceWorkers
from quant.stream_hash import SpanHasher, StreamedFiles
from quant.stream_spans import Span, cut_spans, spans_left
from quant.stream_window import StreamWindow
from quant.tensor_read import TensorReader

WINDOW_BYTES = 64 << 20
"""What a kill may cost of what was fetched."""

SYNC_S = 2.0
REPORT_S = 0.1
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class StreamProgress:
    """How far it is. `n_bytes_read` counts what earlier runs have read; `n_bytes_fetched` is what this one has."""

    conversion: ConversionProgress
    n_bytes_read: int
    n_bytes: int
    n_bytes_fetched: int
    n_files_read: int
    n_files: int


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What the output's bytes do not depend on.

    Args:
        n_threads: that encode.
        n_connections: that fetch.
        window_bytes: fetched and not yet done, at most.
        force: replace an existing output.
        restart: forget what an earlier run has done.
    """

    n_threads: int
    n_connections: int = 8
    window_bytes: int = WINDOW_BYTES
    force: bool = False
    restart: bool = False


def plan_spans(plan: ConversionPlan, source: StreamedFiles) -> tuple[Span, ...]:
    """Return what `run_streamed` will read.

    Raises:
        CheckpointError: a file whose hash is not known.
        UnsupportedTensor: weights that cannot be encoded in the order in which they lie there.
    """
    paths = {path for work in plan.slices for path in work.source.info.paths}
    for path in paths:
        source.sha256(path)
    sizes = {path: source.size_bytes(path) for path in paths}
    headers = {path: 8 + int.from_bytes(source.read(path, 0, 8), "little") for path in paths}
    return cut_spans(plan.slices, sizes, headers)


def run_streamed(
    plan: ConversionPlan,
    source: StreamedFiles,
    out: Path,
    encoder: RowEncoder,
    options: StreamOptions,
    *,
    files: DurableFiles | None = None,
    on_progress: Callable[[StreamProgress], None] = lambda _: None,
) -> ConversionOutcome:
    """Write the plan's file to `out`, or go on where an earlier run was stopped.

    Args:
        plan: what to do.
        source: where the weights are.
        out: the file; its folder exists.
        encoder: makes the bytes.
        options: how.
        files: how to write; tests of failing disks pass their own.
        on_progress: called often, on this thread.

    Raises:
        DamagedSource: a file had another hash than it should, twice.
        CheckpointError, UnsupportedTensor: see `plan_spans`.
        BadWeights, OutputExists, OutputBusy, ResumeRefused, NotEnoughDisk, WriteFailed: see `quant.pipeline.run_plan`.
        KeyboardInterrupt, and what `source` raises: after the journal was brought up to date.
    """
    spans = plan_spans(plan, source)
    files = files or DurableFiles()
    stream = _Stream(plan, source, spans, encoder, options, files, on_progress)
    return write_output(
        plan,
        out,
        encoder.identity,
        stream.convert,
        n_threads=options.n_threads,
        files=files,
        force=options.force,
        restart=options.restart,
        on_progress=stream.report_check,
    )


@dataclass(frozen=True, slots=True)
class _Stream:
    """A conversion, and with what it is done."""

    plan: ConversionPlan
    source: StreamedFiles
    spans: Sequence[Span]
    encoder: RowEncoder
    options: StreamOptions
    files: DurableFiles
    on_progress: Callable[[StreamProgress], None]

    def convert(self, output: PartialFile) -> int:
        """Do what is left; return the weights that an earlier run had done."""
        tried_again: set[Path | str] = set()
        n_resumed, n_bytes_fetched = -1, 0
        while True:
            left = spans_left(self.spans, output.journal.state.read)
            for number in (number for span in left for number in span.slices):
                output.journal.state.done.pop(number, None)
            n_done = sum(self.plan.slices[number].n_weights for number in output.journal.state.done)
            n_resumed = n_done if n_resumed < 0 else n_resumed
            turn = _Turn(self, output, left, n_done, n_bytes_fetched)
            try:
                turn.run()
                return n_resumed
            except DamagedSource as error:
                output.journal.record_done([], {error.path.name: ReadMark(0)})
                _note_first(error.path, error, tried_again)
            except BadWeights as error:  # perhaps of a span that was damaged on its way: its hash comes later
                _note_first(error.message, error, tried_again)
            n_bytes_fetched += turn.window.n_bytes_fetched

    def report_check(self, progress: ConversionProgress) -> None:
        """Report how far reading back is."""
        n_bytes, n_files = sum(span.n_bytes for span in self.spans), len({span.path for span in self.spans})
        self.on_progress(StreamProgress(progress, n_bytes, n_bytes, 0, n_files, n_files))


def _note_first(what: Path | str, error: Exception, noted: set[Path | str]) -> None:
    """Note what happened; raise if it has before."""
    if what in noted:
        raise error
    noted.add(what)


class _Turn:
    """One run through what is left.

    Args:
        stream: the conversion.
        output: where it goes.
        left: the spans.
        n_done: weights that were done before.
        n_fetched_before: bytes that turns before this have fetched.
    """

    def __init__(
        self, stream: _Stream, output: PartialFile, left: Sequence[Span], n_done: int, n_fetched_before: int
    ) -> None:
        self._stream = stream
        self._left = left
        self._n_done = n_done
        self._n_fetched_before = n_fetched_before
        self._fd = output.fd
        self._n_bytes = sum(span.n_bytes for span in stream.spans)
        self._n_files = len({span.path for span in stream.spans})
        self._files_after = _files_after(left)
        self._last_report = 0.0
        options, plan = stream.options, stream.plan
        hasher = SpanHasher(stream.source, output.journal.state.read)
        self.window = StreamWindow(left, stream.source, hasher, options.window_bytes, options.n_connections)
        self._recorder = _StreamRecorder(left, self.window, Recorder(plan.slices, output, stream.files), options)

    def run(self) -> None:
        """Do it.

        Raises: as `run_streamed`, after what was finished has been recorded.
        """
        stream = self._stream
        with TensorReader(self.window) as reader:
            encode = SliceEncoder(stream.plan, self._fd, stream.encoder, files=stream.files, reader=reader)
            todo = [number for span in self._left for number in span.slices]
            workers = SliceWorkers(todo, encode, stream.options.n_threads)
            try:
                self.window.start()
                workers.start()
                while workers.wait(_POLL_S) or not self.window.wait(_POLL_S):
                    workers.raise_error()
                    self._recorder.take(workers)
                    if time.monotonic() - self._last_report >= REPORT_S:
                        self._report()
                workers.raise_error()
            except BaseException:
                self.window.stop()
                workers.stop()
                with suppress(OSError):  # the first error is the one to report
                    self._recorder.take(workers, now=True)
                raise
            self._recorder.take(workers, now=True)
            self.window.stop()
            self._report()

    def _report(self) -> None:
        self._last_report = time.monotonic()
        stream, n_hashed = self._stream, self.window.n_hashed
        n_bytes_left = self.window.bytes_before(len(self._left)) - self.window.bytes_before(n_hashed)
        n_files_left = self._files_after[n_hashed]
        n_weights, n_done = stream.plan.n_weights, self._n_done + self._recorder.n_weights
        conversion = ConversionProgress("convert", n_done, n_weights, self._n_done)
        n_fetched = self._n_fetched_before + self.window.n_bytes_fetched
        stream.on_progress(
            StreamProgress(
                conversion,
                self._n_bytes - n_bytes_left,
                self._n_bytes,
                n_fetched,
                self._n_files - n_files_left,
                self._n_files,
            )
        )


def _files_after(spans: Sequence[Span]) -> list[int]:
    """Return how many files are not read to the end before each span, and after the last: 0."""
    counts, following = [0], None
    for span in reversed(spans):
        counts.append(counts[-1] + (span.path != following))
        following = span.path
    counts.reverse()
    return counts


class _StreamRecorder:
    """Makes finished slices durable, with the marks of the source, and lets the window move on.

    Args:
        spans: of the window.
        window: that is read.
        recorder: of the output.
        options: for the window's size.
    """

    def __init__(self, spans: Sequence[Span], window: StreamWindow, recorder: Recorder, options: StreamOptions) -> None:
        self._window = window
        self._recorder = recorder
        self._due_bytes = options.window_bytes // 4
        self._span_of = {number: index for index, span in enumerate(spans) for number in span.slices}
        self._n_undone = [len(span.slices) for span in spans]
        self._n_durable = self._n_finished = 0  # spans
        self._waiting: list[Finished] = []
        self._last_sync = time.monotonic()
        self.n_weights = 0  # finished

    def take(self, workers: SliceWorkers, *, now: bool = False) -> None:
        """Take what the workers have finished, and make it durable when enough has come together, or `now`."""
        for one in workers.take_finished():
            self._waiting.append(one)
            self._n_undone[self._span_of[one.number]] -= 1
            self.n_weights += one.n_weights
        while self._n_finished < self._window.n_hashed and not self._n_undone[self._n_finished]:
            self._n_finished += 1
        n_bytes = self._window.bytes_before(self._n_finished) - self._window.bytes_before(self._n_durable)
        is_late = time.monotonic() - self._last_sync >= SYNC_S
        if n_bytes >= self._due_bytes or ((now or is_late) and (self._waiting or n_bytes)):
            self._recorder.make_durable(self._waiting, self._window.marks_until(self._n_finished))
            workers.synced(sum(one.n_bytes for one in self._waiting))
            self._window.move_on(self._n_finished)
            self._waiting, self._n_durable = [], self._n_finished
            self._last_sync = time.monotonic()
