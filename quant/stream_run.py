"""Do units of work on weights that come from elsewhere, in the order in which they come.

    fetching threads   ─┐
    hashing thread      ├─ quant/stream_window.py: spans of the source
    worker threads     ─┘  each: a unit, written at its final offset
    calling thread         when a quarter of the window is done: sync the output, record the units and, with the state
                           of the hash, how far the source was read

A resumed run goes on behind the last mark of each file, and does again what an earlier one did beyond it: those bytes
were hashed by nobody that is left. Knows nothing of what a unit is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from quant.durable_files import DurableFiles
from quant.errors import BadWeights, DamagedSource
from quant.journal import ReadMark
from quant.partial_output import PartialOutput
from quant.pipeline import ConversionProgress, OnProgress, Recorder
from quant.readback import Written
from quant.slice_workers import Finished, SliceWorkers
from quant.stream_hash import SpanHasher, StreamedFiles
from quant.stream_spans import Read, Span, cut_spans, longest_stretch, spans_left
from quant.stream_window import StreamWindow
from quant.tensor_read import TensorReader

WINDOW_BYTES = 64 << 20
"""What a kill may cost of what was fetched; twice the largest unit where that is more."""

SYNC_S = 2.0
REPORT_S = 0.1
_POLL_S = 0.02
_FED_BYTES = 4 << 20  # of the window, that keep a thread at work: a slice of two million weights in BF16


@dataclass(frozen=True, slots=True)
class StreamProgress:
    """How far it is. `n_bytes_read` counts what earlier runs have read; `n_bytes_fetched` is what this one has."""

    conversion: ConversionProgress
    n_bytes_read: int
    n_bytes: int
    n_bytes_fetched: int
    n_files_read: int
    n_files: int


OnStreamProgress = Callable[[StreamProgress], None]


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


def spans_of(reads: Sequence[Read], source: StreamedFiles) -> tuple[Span, ...]:
    """Return what reading these takes.

    Raises:
        CheckpointError: a file whose hash is not known.
        UnsupportedTensor: see `cut_spans`.
    """
    paths = {read.path for read in reads}
    for path in paths:
        source.sha256(path)
    sizes = {path: source.size_bytes(path) for path in paths}
    headers = {path: 8 + int.from_bytes(source.read(path, 0, 8), "little") for path in paths}
    return cut_spans(reads, sizes, headers)


@dataclass(frozen=True, slots=True)
class StreamedWork:
    """What is to be done, and with what.

    Args:
        units: all of the plan, by number.
        spans: what the units read that are to be done here.
        source: where from.
        encoder: returns what does the unit of a number, reading through the reader that it is given.
        options: how.
        files: how to write.
        on_progress: called about ten times a second, on the calling thread.
    """

    units: Sequence[Written]
    spans: Sequence[Span]
    source: StreamedFiles
    encoder: Callable[[TensorReader], Callable[[int], Finished]]
    options: StreamOptions
    files: DurableFiles
    on_progress: OnStreamProgress

    def run(self, output: PartialOutput) -> int:
        """Do what is left; return the weights that an earlier run had done.

        Raises:
            DamagedSource: a file had another hash than it should, twice.
            whatever `encoder`, `source` or `on_progress` do, after what was finished has been recorded.
        """
        tried_again: set[Path | str] = set()
        n_resumed, n_bytes_fetched = -1, 0
        while True:
            left = spans_left(self.spans, output.journal.state.read)
            n_done = self._forget(left, output)
            n_resumed = n_done if n_resumed < 0 else n_resumed
            turn = _Turn(self, output, left, n_done, n_bytes_fetched)
            try:
                turn.run()
                return n_resumed
            except DamagedSource as error:
                output.journal.record_done([], {error.path.name: ReadMark(0)})
                _raise_second(error.path, error, tried_again)
            except BadWeights as error:  # perhaps of a span that was damaged on its way: the file's hash comes later
                _raise_second(error.message, error, tried_again)
            n_bytes_fetched += turn.window.n_bytes_fetched

    @property
    def n_weights(self) -> int:
        """Weights of the units that are done here."""
        return self._weights({number for span in self.spans for number in span.units})

    def _forget(self, left: Sequence[Span], output: PartialOutput) -> int:
        """Forget units that will be done again; return the weights of those that are done."""
        again = {number for span in left for number in span.units}
        for number in again:
            output.journal.state.done.pop(number, None)
        return self.n_weights - self._weights(again)

    def _weights(self, numbers: set[int]) -> int:
        return sum(self.units[number].n_weights for number in numbers)


def without_stream(spans: Sequence[Span], on_progress: OnStreamProgress, *, is_read: bool) -> OnProgress:
    """Return what reports how far something is that comes before the stream, or (`is_read`) after it.

    Args:
        spans: of the stream.
        on_progress: is told.
        is_read: whether all of them were read.
    """
    n_bytes, n_files = _totals(spans)
    n_bytes_read, n_files_read = (n_bytes, n_files) if is_read else (0, 0)
    return lambda progress: on_progress(StreamProgress(progress, n_bytes_read, n_bytes, 0, n_files_read, n_files))


def _totals(spans: Sequence[Span]) -> tuple[int, int]:
    """Return bytes and files."""
    return sum(span.n_bytes for span in spans), len({span.path for span in spans})


def _raise_second(what: Path | str, error: Exception, met: set[Path | str]) -> None:
    """Note what was met; raise if it was before."""
    if what in met:
        raise error
    met.add(what)


class _Turn:
    """One run through what is left.

    Args:
        work: all of it.
        output: where it goes.
        left: the spans.
        n_done: weights that were done before.
        n_fetched_before: bytes that turns before this have fetched.
    """

    def __init__(
        self, work: StreamedWork, output: PartialOutput, left: Sequence[Span], n_done: int, n_fetched_before: int
    ) -> None:
        self._work = work
        self._left = left
        self._n_done = n_done
        self._n_fetched_before = n_fetched_before
        self._n_weights = work.n_weights
        self._n_bytes, self._n_files = _totals(work.spans)
        self._files_after = _files_after(left)
        self._last_report = 0.0
        n_fed = work.options.window_bytes // _FED_BYTES  # more would only hold buffers
        self._n_threads = min(work.options.n_threads, max(2, n_fed))
        window_bytes = max(work.options.window_bytes, 2 * longest_stretch(left))
        hasher = SpanHasher(work.source, output.journal.state.read)
        self.window = StreamWindow(left, work.source, hasher, window_bytes, work.options.n_connections)
        recorder = Recorder(work.units, output, work.files)
        self._recorder = _StreamRecorder(left, self.window, recorder, work.options.window_bytes // 4)

    def run(self) -> None:
        """Do it.

        Raises: as `StreamedWork.run`.
        """
        with TensorReader(self.window) as reader:
            todo = dict.fromkeys(number for span in self._left for number in span.units)
            workers = SliceWorkers([*todo], self._work.encoder(reader), self._n_threads)
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
        n_hashed = self.window.n_hashed
        n_bytes_left = self.window.bytes_before(len(self._left)) - self.window.bytes_before(n_hashed)
        n_done = self._n_done + self._recorder.n_weights
        self._work.on_progress(
            StreamProgress(
                ConversionProgress("convert", n_done, self._n_weights, self._n_done),
                self._n_bytes - n_bytes_left,
                self._n_bytes,
                self._n_fetched_before + self.window.n_bytes_fetched,
                self._n_files - self._files_after[n_hashed],
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
    """Makes finished units durable, with the marks of the source, and lets the window move on.

    Args:
        spans: of the window.
        window: that is read.
        recorder: of the output.
        due_bytes: of the source; when so much is done, it is made durable.
    """

    def __init__(self, spans: Sequence[Span], window: StreamWindow, recorder: Recorder, due_bytes: int) -> None:
        self._spans = spans
        self._window = window
        self._recorder = recorder
        self._due_bytes = due_bytes
        self._spans_of: dict[int, list[int]] = {}
        for index, span in enumerate(spans):
            for number in span.units:
                self._spans_of.setdefault(number, []).append(index)
        self._n_undone = [len(span.units) for span in spans]
        self._n_done = self._n_whole = self._n_durable = 0  # spans: all done before; and none goes on; and recorded
        self._waiting: list[Finished] = []
        self._last_sync = time.monotonic()
        self.n_weights = 0  # finished

    def take(self, workers: SliceWorkers, *, now: bool = False) -> None:
        """Take what the workers have finished, and make it durable when enough has come together, or `now`."""
        for one in workers.take_finished():
            self._waiting.append(one)
            self.n_weights += one.n_weights
            for index in self._spans_of[one.number]:
                self._n_undone[index] -= 1
        while self._n_done < self._window.n_hashed and not self._n_undone[self._n_done]:
            self._n_done += 1
            if self._spans[self._n_done - 1].ends_units:
                self._n_whole = self._n_done
        n_bytes = self._window.bytes_before(self._n_whole) - self._window.bytes_before(self._n_durable)
        is_late = time.monotonic() - self._last_sync >= SYNC_S
        if n_bytes >= self._due_bytes or ((now or is_late) and (self._waiting or n_bytes)):
            self._recorder.make_durable(self._waiting, self._window.marks_until(self._n_whole))
            workers.synced(sum(one.n_bytes for one in self._waiting))
            self._window.move_on(self._n_whole)
            self._waiting, self._n_durable = [], self._n_whole
            self._last_sync = time.monotonic()
