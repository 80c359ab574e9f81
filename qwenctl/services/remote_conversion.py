"""Convert a checkpoint while it is downloaded: what will be fetched and written, and doing it.

The output has the bytes that `conversion` makes of the same checkpoint on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from quant.codecs.row_encoder import make_row_encoder
from quant.conversion_plan import Importance
from quant.digests import digest_path
from quant.durable_files import DurableFiles
from quant.errors import NotEnoughDisk
from quant.imatrix_file import read_imatrix
from quant.journal import JournalState, read_state
from quant.libggml import load_libggml
from quant.partial_output import DISK_RESERVE_BYTES, OutputNames, held_bytes
from quant.stream_pipeline import plan_spans, run_streamed
from quant.stream_run import OnStreamProgress, StreamOptions
from quant.stream_spans import Span, spans_left
from qwenctl.services.conversion import ConversionResult, conversion_result
from qwenctl.services.link_speed import measure_encoder, measure_link
from qwenctl.services.machine_limits import usable_cores
from qwenctl.services.remote_checkpoint import RemoteCheckpoint, RemoteShards, read_remote_checkpoint
from qwenctl.services.type_choice import ChosenPlan, TypeRequest, choose_plan

N_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class RemotePlan:
    """What will be done.

    `n_bytes_fetched_before` were fetched and encoded by a run that was stopped. `disk_bytes` is all that the output
    takes, `link_bytes_per_s` and `seconds` are rough and None where they were not measured.
    """

    checkpoint: RemoteCheckpoint
    shards: RemoteShards
    chosen: ChosenPlan
    quality: str
    n_bytes_to_fetch: int
    n_bytes_fetched_before: int
    disk_bytes: int
    free_bytes: int
    link_bytes_per_s: float | None = None
    seconds: float | None = None


def plan_remote(
    checkpoint: RemoteCheckpoint,
    out: Path,
    request: TypeRequest,
    imatrix: Path | None = None,
    *,
    n_threads: int | None = None,
    n_connections: int = N_CONNECTIONS,
    measure: bool = True,
    on_progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> RemotePlan:
    """Return what `convert_remote` will do. Fetches the headers of the shards; for a budget, samples of weights.

    Args:
        checkpoint: what is to be converted.
        out: where to, as `conversion.resolve_output` returns it.
        request: the types that are wanted.
        imatrix: file of an importance matrix.
        n_threads: that will encode; None: as many as this process may use.
        n_connections: that will fetch.
        measure: try how fast the link is, unless an earlier run has begun: fetches up to 32 MiB for nothing.
        on_progress: called with (tensors measured, of how many) for a budget.

    Raises:
        NotEnoughDisk: the output will not fit.
        QuantError: what is wrong with the checkpoint, the type, the budget, the recipe or the importance matrix.
        QwenctlError: the hub does not answer.
    """
    source, shards = read_remote_checkpoint(checkpoint)
    importance = None if imatrix is None else Importance(read_imatrix(imatrix), imatrix.name)
    n_measuring = max(n_connections, n_threads or usable_cores())  # reading samples is waiting for the network
    chosen = choose_plan(source, request, importance, n_threads=n_measuring, on_progress=on_progress)
    encoder = make_row_encoder(load_libggml(), request.quality)
    state = _earlier(out, {**chosen.plan.identity, "library": encoder.identity})
    spans = plan_spans(chosen.plan, shards)
    left = spans_left(spans, state.read)
    free, disk = DurableFiles().free_bytes(out.parent), chosen.plan.total_bytes
    needed = max(0, disk - (held_bytes(OutputNames(out, out).partial) if state.identity else 0)) + DISK_RESERVE_BYTES
    if free < needed:
        raise NotEnoughDisk(out.parent, needed, free)
    to_fetch = _remote_bytes(left, shards)
    speed = measure_link(checkpoint.shards, n_connections) if measure and not state.read else None
    weights_per_s = measure_encoder(chosen.plan, encoder, n_threads or usable_cores()) if speed else 0.0
    seconds = max(to_fetch / speed, chosen.plan.n_weights / weights_per_s) if speed else None
    return RemotePlan(
        checkpoint=checkpoint,
        shards=shards,
        chosen=chosen,
        quality=request.quality,
        n_bytes_to_fetch=to_fetch,
        n_bytes_fetched_before=_remote_bytes(spans, shards) - to_fetch,
        disk_bytes=disk,
        free_bytes=free,
        link_bytes_per_s=speed,
        seconds=seconds,
    )


def convert_remote(
    planned: RemotePlan,
    out: Path,
    *,
    n_threads: int | None = None,
    n_connections: int = N_CONNECTIONS,
    force: bool = False,
    restart: bool = False,
    on_progress: OnStreamProgress = lambda _: None,
) -> ConversionResult:
    """Do what was planned, or go on where an earlier run was stopped.

    Args:
        planned: what to do.
        out: where to.
        n_threads: that encode; None: as many as this process may use.
        n_connections: that fetch.
        force: replace an existing file.
        restart: forget what an earlier run has done.
        on_progress: called about ten times a second.

    Raises:
        QuantError: see `quant.stream_pipeline.run_streamed`.
        QwenctlError: the hub does not answer any more; what is done is kept.
        KeyboardInterrupt: what is done is kept.
    """
    started = time.monotonic()
    options = StreamOptions(n_threads or usable_cores(), n_connections, force=force, restart=restart)
    encoder = make_row_encoder(load_libggml(), planned.quality)
    plan = planned.chosen.plan
    outcome = run_streamed(plan, planned.shards, out, encoder, options, on_progress=on_progress)
    return conversion_result(plan, out, outcome, started, options.n_threads)


def _earlier(out: Path, identity: dict[str, str]) -> JournalState:
    """Return what an earlier run of the same conversion has left; an empty state if there is none."""
    journal = OutputNames(out, digest_path(out)).journal
    state = read_state(journal.read_bytes()) if journal.exists() else JournalState()
    return state if state.identity == identity else JournalState()


def _remote_bytes(spans: tuple[Span, ...], shards: RemoteShards) -> int:
    return sum(span.n_bytes for span in spans if not shards.shards[span.path.name].is_local)
