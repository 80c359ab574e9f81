"""Export a checkpoint to AWQ or GPTQ while it is downloaded: what will be fetched and written, and doing it.

The folder is the one that `safetensors_export` makes of the same checkpoint on the disk. Everything that is packed is
fetched once; the samples that AWQ's search looks at, and what stands in for statistics, come on top.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from quant.export_folder import FolderNames
from quant.export_plan import ExportPlan
from quant.export_stream import estimate_sampled_bytes, plan_export_spans, run_streamed_export
from quant.stream_run import OnStreamProgress, StreamOptions
from qwenctl.services.remote_checkpoint import RemoteCheckpoint, RemoteShards, read_shards
from qwenctl.services.remote_room import RemoteRoom, find_room
from qwenctl.services.safetensors_export import ExportRequest, ExportResult, export_result, plan_of


@dataclass(frozen=True, slots=True)
class RemoteExportPlan(RemoteRoom):
    """What will be done. `n_bytes_sampled` is about what is fetched out of order, beside `n_bytes_to_fetch`."""

    shards: RemoteShards
    plan: ExportPlan
    n_bytes_sampled: int


def plan_remote_export(checkpoint: RemoteCheckpoint, out: Path, request: ExportRequest) -> RemoteExportPlan:
    """Return what `convert_remote_export` will do. Fetches the headers of the shards.

    Args:
        checkpoint: what is to be exported.
        out: where to, as `safetensors_export.resolve_folder` returns it.
        request: how; its source does not count.

    Raises:
        NotEnoughDisk: the output will not fit.
        QuantError: what is wrong with the checkpoint or the statistics.
        QwenctlError: the hub does not answer.
    """
    shards = read_shards(checkpoint)
    plan = plan_of(replace(request, source=checkpoint.folder), shards)
    names = FolderNames(out)
    growing = [names.scratch, *(names.partial / shard.name for shard in plan.shards)]
    room = find_room(
        plan_export_spans(plan, shards),
        shards,
        out,
        plan.total_bytes,
        identity=plan.identity,
        growing=growing,
        journal=names.journal,
    )
    n_sampled = 0 if not room.n_bytes_to_fetch else estimate_sampled_bytes(plan)
    return RemoteExportPlan(**asdict(room), shards=shards, plan=plan, n_bytes_sampled=n_sampled)


def convert_remote_export(
    planned: RemoteExportPlan,
    out: Path,
    options: StreamOptions,
    on_progress: OnStreamProgress = lambda _: None,
) -> ExportResult:
    """Do what was planned, or go on where an earlier run was stopped.

    Args:
        planned: what to do.
        out: where to.
        options: how.
        on_progress: called about ten times a second; stages are "search", "convert" and "check".

    Raises:
        QuantError: see `quant.export_stream.run_streamed_export`.
        QwenctlError: the hub does not answer any more; what is done is kept.
        KeyboardInterrupt: what is done is kept.
    """
    started = time.monotonic()
    outcome = run_streamed_export(planned.plan, planned.shards, out, options, on_progress=on_progress)
    return export_result(planned.plan, out, outcome, started, options.n_threads)
