"""Run a conversion plan in bounded memory, so that it can be killed at any point and resumed.

    worker threads     each: one slice as f32, encoded, written at its final offset (quant/slice_encoder.py)
    calling thread     every 2 s or 256 MiB: sync the file, then record in the journal what was finished before
    at the end         read the file back (quant/readback.py), then give it its name (quant/partial_output.py)

A slice is recorded only after its bytes are on the disk, so a journal never promises what a power failure took.
`run_plan` writes GGUF files; quant/export_pipeline.py writes folders with the same parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from quant.codecs.row_encoder import RowEncoder
from quant.conversion_plan import ConversionPlan
from quant.digests import digest_path, layout_digests
from quant.durable_files import DurableFiles, is_disk_full
from quant.errors import CheckpointError, NotEnoughDisk, WriteFailed
from quant.journal import ReadMark, describe_differences
from quant.page_cache import SourceCache, drop_from_cache
from quant.partial_output import OutputContents, OutputNames, PartialFile, PartialOutput
from quant.readback import HEADER, Part, PartCheck, Written
from quant.slice_encoder import SliceEncoder
from quant.slice_workers import Finished, SliceWorkers
from quant.source_fingerprint import fingerprint_checkpoint
from quant.tensor_read import TensorReader

SYNC_BYTES = 256 << 20
SYNC_S = 2.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class ConversionProgress:
    """How far a conversion is. Weights that an earlier run had done count as done."""

    stage: str  # "convert", then "check"
    n_weights_done: int
    n_weights: int
    n_weights_resumed: int


@dataclass(frozen=True, slots=True)
class ConversionOutcome:
    """What a run has done."""

    n_weights: int  # encoded by this run
    n_weights_resumed: int
    convert_s: float
    check_s: float


OnProgress = Callable[[ConversionProgress], None]


def run_plan(
    plan: ConversionPlan,
    out: Path,
    encoder: RowEncoder,
    n_threads: int,
    *,
    force: bool = False,
    restart: bool = False,
    files: DurableFiles | None = None,
    on_progress: OnProgress = lambda _: None,
) -> ConversionOutcome:
    """Write the plan's file to `out`, or go on where an earlier run was stopped.

    Args:
        plan: what to do.
        out: the file; its folder exists.
        encoder: makes the bytes.
        n_threads: worker threads; the bytes do not depend on it.
        force: replace an existing output.
        restart: forget what an earlier run has done.
        files: how to write; tests of failing disks pass their own.
        on_progress: called about ten times a second, on this thread.

    Raises:
        OutputExists, OutputBusy, ResumeRefused, NotEnoughDisk: see `PartialOutput`; nothing was changed.
        BadWeights: the source holds what the type cannot store.
        CheckpointError: the source was changed meanwhile.
        WriteFailed: the disk failed; run it again to resume.
        KeyboardInterrupt: after the journal was brought up to date.
    """
    files = files or DurableFiles()

    def convert(output: PartialFile) -> int:
        n_resumed = _convert(plan, output, encoder, n_threads, files=files, on_progress=on_progress)
        refuse_changed_source(plan.source, _source_files(plan), plan.identity)
        return n_resumed

    return write_output(
        plan,
        out,
        encoder.identity,
        convert,
        n_threads=n_threads,
        files=files,
        force=force,
        restart=restart,
        on_progress=on_progress,
    )


def write_output(
    plan: ConversionPlan,
    out: Path,
    library: str,
    convert: Callable[[PartialFile], int],
    *,
    n_threads: int,
    files: DurableFiles,
    force: bool,
    restart: bool,
    on_progress: OnProgress,
) -> ConversionOutcome:
    """Open the output, let `convert` do all slices that are left, read the file back and give it its name.

    Args:
        library: identity of the encoder.
        convert: returns the weights that an earlier run had done.
        plan, out, n_threads, files, force, restart, on_progress: see `run_plan`.

    Raises: as `run_plan`, and what `convert` does.
    """
    names = OutputNames(out, digest_path(out))
    contents = OutputContents({**plan.identity, "library": library}, plan.layout.header, plan.total_bytes)
    with (
        explained(out, plan.total_bytes, files),
        PartialFile(names, contents, files, force=force, restart=restart) as output,
    ):
        if output.is_published:
            return ConversionOutcome(0, plan.n_weights, 0.0, 0.0)
        started = time.monotonic()
        resumed = convert(output)
        converted = time.monotonic()
        hashes = read_back(_parts(plan, output), output, names.partial, n_threads, on_progress)
        digests = layout_digests(plan.layout, hashes.pop(HEADER), hashes)
        output.publish(replace(digests, tool=library).to_json())
        return ConversionOutcome(plan.n_weights - resumed, resumed, converted - started, time.monotonic() - converted)


def _convert(
    plan: ConversionPlan,
    output: PartialFile,
    encoder: RowEncoder,
    n_threads: int,
    *,
    files: DurableFiles,
    on_progress: OnProgress,
) -> int:
    done = output.journal.state.done
    todo = [number for number in range(len(plan.slices)) if number not in done]
    n_resumed = plan.n_weights - sum(plan.slices[number].n_weights for number in todo)
    recorder = Recorder(plan.slices, output, files)

    def report() -> None:
        on_progress(ConversionProgress("convert", n_resumed + recorder.n_weights, plan.n_weights, n_resumed))

    with TensorReader() as reader, SourceCache(_source_files(plan)) as cache:
        slices = SliceEncoder(plan, output.fd, encoder, files=files, reader=reader, cache=cache, n_ahead=n_threads)
        work_through(todo, slices, n_threads, recorder, report)
    return n_resumed


def _source_files(plan: ConversionPlan) -> set[Path]:
    return {path for work in plan.slices for path in work.source.info.paths}


def _parts(plan: ConversionPlan, output: PartialFile) -> list[Part]:
    """Return the header and the tensors, with their slices."""
    slices_of: list[dict[int, Written]] = [{} for _ in plan.layout.placed]
    for number, work in enumerate(plan.slices):
        slices_of[work.tensor][number] = work
    tensors = zip(plan.layout.placed, slices_of, strict=True)
    return [Part(HEADER, output.fd, {}, plan.layout.header), *(Part(t.name, output.fd, units) for t, units in tensors)]


def refuse_changed_source(source: Path, weight_files: Iterable[Path], identity: Mapping[str, str]) -> None:
    """Raise if the source is not what it was when it was planned: the output may hold some of each.

    Raises:
        CheckpointError: names a file that has changed.
    """
    now = fingerprint_checkpoint(source, sorted(weight_files))
    differences = describe_differences({name: identity.get(name, "") for name in now}, now)
    if differences:
        raise CheckpointError(
            f"{source} changed while it was converted: {differences[0]}", "--restart converts it again"
        )


def work_through(
    todo: Sequence[int],
    encode: Callable[[int], Finished],
    n_threads: int,
    recorder: Recorder,
    report: Callable[[], None],
) -> None:
    """Do the units of these numbers on `n_threads` threads, and make what they write durable as it comes.

    Args:
        todo: numbers, begun in this order.
        encode: does one and writes it; called from several threads at once.
        n_threads: worker threads.
        recorder: of the output.
        report: called about ten times a second, on this thread; what it raises stops the work.

    Raises:
        whatever `encode` or `report` does, after what was finished has been recorded.
    """
    workers = SliceWorkers(todo, encode, n_threads)
    try:
        workers.start()
        while workers.wait(_POLL_S):
            recorder.take(workers)
            report()
        workers.raise_error()
    except BaseException:
        workers.stop()
        with suppress(OSError):  # the first error is the one to report
            recorder.take(workers, now=True)
        raise
    recorder.take(workers, now=True)


class Recorder:
    """Makes finished units durable: syncs their files, then records them, then lets their pages go.

    Args:
        units: by number.
        output: where they are written.
        files: how.
    """

    def __init__(self, units: Sequence[Written], output: PartialOutput, files: DurableFiles) -> None:
        self._units = units
        self._output = output
        self._files = files
        self._waiting: list[Finished] = []
        self._last_sync = time.monotonic()
        self.n_weights = 0  # finished by this run

    def take(self, workers: SliceWorkers, *, now: bool = False) -> None:
        """Take what the workers have finished, and make it durable when enough has come together, or `now`."""
        finished = workers.take_finished()
        self._waiting += finished
        self.n_weights += sum(one.n_weights for one in finished)
        n_bytes = sum(one.n_bytes for one in self._waiting)
        if self._waiting and (now or n_bytes >= SYNC_BYTES or time.monotonic() - self._last_sync >= SYNC_S):
            self.make_durable(self._waiting)
            self._waiting = []
            self._last_sync = time.monotonic()
            workers.synced(n_bytes)

    def make_durable(self, finished: Sequence[Finished], read: Mapping[str, ReadMark] | None = None) -> None:
        """Sync what these units were written to, record them and how far the source was read, and drop their pages."""
        units = [self._units[one.number] for one in finished]
        for file in sorted({unit.file for unit in units}):
            self._files.sync_data(self._output.fds[file])
        self._output.journal.record_done([(one.number, one.crc32) for one in finished], read)
        for unit in units:
            drop_from_cache(self._output.fds[unit.file], unit.offset_bytes, unit.n_bytes)


def read_back(
    parts: Sequence[Part], output: PartialOutput, path: Path, n_threads: int, on_progress: OnProgress
) -> dict[str, str]:
    """Return the SHA-256 of each part, by name, in hexadecimal, after every unit has proved to be what was written.

    Raises:
        WriteFailed: other bytes than were written.
    """
    check = PartCheck(parts, output.journal.state.done, path)
    n_weights = sum(part.n_weights for part in parts)
    workers = SliceWorkers(range(len(parts)), check, n_threads)
    n_checked = 0
    try:
        workers.start()
        while workers.wait(_POLL_S):
            n_checked += sum(one.n_weights for one in workers.take_finished())
            on_progress(ConversionProgress("check", n_checked, n_weights, 0))
        workers.raise_error()
    finally:
        workers.stop()
    return check.digests


@contextmanager
def explained(final: Path, total_bytes: int, files: DurableFiles) -> Iterator[None]:
    """Turn errors of the operating system into ours; those that name a file (no permission …) say enough."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise NotEnoughDisk(final.parent, total_bytes, files.free_bytes(final.parent)) from error
        if isinstance(error.filename, str):
            raise
        raise WriteFailed(
            f"{final}: {error.strerror or error}",
            "what is done so far is kept: when the disk is well again, the same command resumes",
        ) from error
