"""Convert a checkpoint while it is downloaded: what will be fetched and written, and doing it.

The output has the bytes that `conversion` makes of the same checkpoint on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from quant.codecs.row_encoder import RowEncoder, make_row_encoder
from quant.conversion_plan import Importance
from quant.digests import digest_path
from quant.imatrix_file import read_imatrix
from quant.libggml import load_libggml
from quant.partial_output import OutputNames
from quant.stream_pipeline import plan_spans, run_streamed
from quant.stream_run import OnStreamProgress, StreamOptions
from qwenctl.services.conversion import ConversionResult, conversion_result
from qwenctl.services.link_speed import measure_encoder, measure_link
from qwenctl.services.machine_limits import usable_cores
from qwenctl.services.remote_checkpoint import RemoteCheckpoint, RemoteShards, read_remote_checkpoint
from qwenctl.services.remote_room import RemoteRoom, find_room
from qwenctl.services.type_choice import ChosenPlan, TypeRequest, choose_plan

N_CONNECTIONS = 8


@dataclass(frozen=True, slots=True)
class RemotePlan(RemoteRoom):
    """What will be done. `link_bytes_per_s` and `seconds` are rough, and None where they were not measured."""

    shards: RemoteShards
    chosen: ChosenPlan
    encoder: RowEncoder
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
    names = OutputNames(out, digest_path(out))
    room = find_room(
        plan_spans(chosen.plan, shards),
        shards,
        out,
        chosen.plan.total_bytes,
        identity={**chosen.plan.identity, "library": encoder.identity},
        growing=[names.partial],
        journal=names.journal,
    )
    speed = measure_link(checkpoint.shards, n_connections) if measure and not room.n_bytes_fetched_before else None
    weights_per_s = measure_encoder(chosen.plan, encoder, n_threads or usable_cores()) if speed else 0.0
    seconds = max(room.n_bytes_to_fetch / speed, chosen.plan.n_weights / weights_per_s) if speed else None
    return RemotePlan(
        **asdict(room),
        shards=shards,
        chosen=chosen,
        encoder=encoder,
        link_bytes_per_s=speed,
        seconds=seconds,
    )


def convert_remote(
    planned: RemotePlan,
    out: Path,
    options: StreamOptions,
    on_progress: OnStreamProgress = lambda _: None,
) -> ConversionResult:
    """Do what was planned, or go on where an earlier run was stopped.

    Args:
        planned: what to do.
        out: where to.
        options: how.
        on_progress: called about ten times a second.

    Raises:
        QuantError: see `quant.stream_pipeline.run_streamed`.
        QwenctlError: the hub does not answer any more; what is done is kept.
        KeyboardInterrupt: what is done is kept.
    """
    started = time.monotonic()
    plan = planned.chosen.plan
    outcome = run_streamed(plan, planned.shards, out, planned.encoder, options, on_progress=on_progress)
    return conversion_result(plan, out, outcome, started, options.n_threads)
