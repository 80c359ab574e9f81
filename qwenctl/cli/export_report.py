"""`qwenctl convert --format awq|gptq`: run the export and print its plan, progress and result."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from quant.export_plan import ExportPlan
from qwenctl.cli.conversion_output import conversion_bars, print_conversion
from qwenctl.cli.families_table import print_families
from qwenctl.cli.output import Output
from qwenctl.services.safetensors_export import (
    ExportRequest,
    plan,
    resolve_folder,
    speed_note,
    write_plan,
)
from qwenctl.units import format_bytes, format_count


def run_export_command(
    request: ExportRequest,
    out: str,
    output: Output,
    *,
    n_threads: int | None,
    force: bool,
    restart: bool,
    dry_run: bool,
) -> None:
    """Export, or print what would be; the folder's name goes to standard output.

    Raises:
        QwenctlError, QuantError: as the services do.
        KeyboardInterrupt: what is done is kept.
    """
    planned = plan(request)
    for note in (*planned.notes, *filter(None, (speed_note(),))):
        output.note(note)
    for caution in planned.cautions:
        output.warning(caution)
    if dry_run:
        _print_plan(planned, output)
        return
    path = resolve_folder(out)
    with conversion_bars(output, planned.kind.name) as show:
        result = write_plan(planned, path, n_threads=n_threads, force=force, restart=restart, on_progress=show)
    for warning in result.warnings:
        output.warning(warning)
    made = f"{result.format}: {format_bytes(result.n_bytes)} in {_count(result.n_shards, 'shard')}"
    print_conversion(result, made, output)


def _print_plan(planned: ExportPlan, output: Output) -> None:
    if output.json_mode:
        output.data(plan_document(planned))
        return
    output.table(
        ("TENSOR", "SHAPE", "TYPE", "FILE", "BYTES"),
        [
            (placed.name, " x ".join(map(str, placed.shape)), placed.dtype, shard.name, f"{placed.n_bytes:,}")
            for shard in planned.shards
            for placed in shard.tensors
        ],
        right=(4,),
    )
    output.line()
    print_families(planned.family_totals(), output)
    output.line()
    output.fields(
        [
            ("format", f"{planned.kind.name}, groups of {planned.kind.group_size}"),
            ("tensors", sum(len(shard.tensors) for shard in planned.shards)),
            ("weights", f"{format_count(planned.n_weights)} ({planned.n_weights:,})"),
            ("bits a weight", f"{planned.bits_per_weight:.2f}"),
            ("shards", len(planned.shards)),
            ("folder", f"{format_bytes(planned.total_bytes)} ({planned.total_bytes:,} bytes)"),
        ]
    )


def plan_document(planned: ExportPlan) -> dict[str, Any]:
    """Return the plan as a JSON document."""
    return {
        "source": str(planned.source),
        "format": planned.kind.name,
        "group_size": planned.kind.group_size,
        "n_weights": planned.n_weights,
        "bits_per_weight": round(planned.bits_per_weight, 4),
        "total_bytes": planned.total_bytes,
        "warnings": planned.cautions,
        "families": [asdict(total) for total in planned.family_totals()],
        "files": [{"name": shard.name, "n_bytes": shard.total_bytes} for shard in planned.shards]
        + [{"name": name, "n_bytes": len(data)} for name, data in planned.carried.items()],
        "tensors": [
            {
                "name": placed.name,
                "shape": placed.shape,
                "type": placed.dtype,
                "file": shard.name,
                "offset_bytes": placed.offset_bytes,
                "n_bytes": placed.n_bytes,
            }
            for shard in planned.shards
            for placed in shard.tensors
        ],
    }


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
