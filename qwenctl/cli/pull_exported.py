"""Runs a pull whose weights are exported to AWQ or GPTQ while they are fetched: plan, progress, result and record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from qwenctl.cli.conversion_output import print_conversion
from qwenctl.cli.output import Output
from qwenctl.cli.pull_converted import PullAsked, is_there, record
from qwenctl.cli.pull_progress import streamed_bars
from qwenctl.cli.pull_report import export_document, print_dry_run, show_export_plan
from qwenctl.services.hub.hub_access import Hub
from qwenctl.services.hub.pull_conversion import imatrix_file, open_checkpoint_on_hub, small_files
from qwenctl.services.hub.resolution import Wanted
from qwenctl.services.remote_export import RemoteExportPlan, convert_remote_export, plan_remote_export
from qwenctl.services.safetensors_export import ExportRequest, resolve_folder, speed_note
from qwenctl.units import format_bytes


def pull_exported(wanted: Wanted, asked: PullAsked, request: ExportRequest, hub: Hub, output: Output) -> None:
    """Export a checkpoint while it is fetched, or print what would be; the folder goes to standard output.

    Args:
        wanted: the checkpoint.
        asked: what was typed; without OUT the folder is called after the repository, and lies here.
        request: how to export; its source and importance matrix are filled in.
        hub: where from.
        output: where to print.

    Raises:
        OutputExists: something has the name, and --force was not given.
        QwenctlError, QuantError: as the services do.
        KeyboardInterrupt: what is done is kept.
    """
    target = resolve_folder(asked.out or wanted.label)
    if is_there(wanted, asked, target, output):
        return
    with small_files(target, write=not asked.dry_run) as folder:
        checkpoint = open_checkpoint_on_hub(wanted, folder, hub)
        matrix = imatrix_file(asked.imatrix, hub, folder) if asked.imatrix else None
        planned = plan_remote_export(checkpoint, target, replace(request, source=folder, imatrix=matrix))
        _show(wanted, planned, target, output)
        if asked.dry_run:
            print_dry_run(export_document(wanted, planned, target), target, output)
            return
        with streamed_bars(output, request.format_name) as show:
            result = convert_remote_export(planned, target, asked.stream_options, show)
        record(wanted, asked, target)
    for warning in result.warnings:
        output.warning(warning)
    output.note(f"serve it: vllm serve {target}")
    print_conversion(result, f"{result.format}: {format_bytes(result.n_bytes)}", output)


def _show(wanted: Wanted, planned: RemoteExportPlan, target: Path, output: Output) -> None:
    show_export_plan(wanted, planned, target, output)
    for note in (*planned.plan.notes, *filter(None, (speed_note(),))):
        output.note(note)
    for caution in planned.plan.cautions:
        output.warning(caution)
