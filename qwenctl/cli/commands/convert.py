"""`qwenctl convert`: a Hugging Face checkpoint to GGUF in one pass, or to an AWQ or GPTQ folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from quant.conversion_plan import ConversionPlan
from quant.pipeline import ConversionProgress
from quant.recipe import OUTPUT_TYPES
from qwenctl.cli.command import Command
from qwenctl.cli.export_options import export_options, export_request, refuse_export_options
from qwenctl.cli.export_report import run_export_command
from qwenctl.cli.families_table import print_families
from qwenctl.cli.interrupt import InterruptWatch
from qwenctl.cli.options import output_options, output_type_option, threads_option
from qwenctl.cli.output import Output
from qwenctl.cli.stage_bars import StageBars
from qwenctl.services.conversion import ConversionResult, plan, resolve_output, write_plan
from qwenctl.settings import Settings
from qwenctl.units import format_bytes, format_count, format_memory, format_seconds


@click.command(
    "convert",
    cls=Command,
    examples=[
        "qwenctl convert Qwen3-30B-A3B qwen3-30b            # to q4_k_m, among the converted models",
        "qwenctl convert Qwen3-30B-A3B /data/q8.gguf --type q8_0",
        "qwenctl convert Qwen3-30B-A3B qwen3-30b --dry-run  # types and sizes; nothing is written",
        "qwenctl convert Qwen3-30B-A3B qwen3-30b-awq --format awq --imatrix qwen3-30b.imatrix.gguf",
    ],
)
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT")
@output_type_option(OUTPUT_TYPES)
@export_options
@threads_option
@click.option("--force", is_flag=True, help="Replace OUT if it is there.")
@click.option("--restart", is_flag=True, help="Start over instead of resuming an interrupted conversion.")
@click.option("--dry-run", is_flag=True, help="Print the plan: every tensor, its type and size. Write nothing.")
@output_options
def command(
    *,
    source: Path,
    out: str,
    output_type: str,
    format_name: str,
    imatrix: Path | None,
    n_threads: int | None,
    force: bool,
    restart: bool,
    dry_run: bool,
    output: Output,
    settings: Settings,
    **export: Any,
) -> None:
    """Turn a Hugging Face checkpoint into a GGUF file.

    SRC is a folder with config.json, tokenizer.json and safetensors. OUT is a path that ends in .gguf, or a bare name:
    then the file goes among the converted models, and `qwenctl run NAME` finds it.

    With --format awq or gptq, OUT is a folder that vLLM, SGLang and transformers load: safetensors of 4-bit weights,
    configuration and tokenizer. Statistics of activations make them better: `qwenctl imatrix` gathers both kinds.

    The output is written once, without an intermediate copy. Interrupted at any point, the same command resumes.
    """
    n_threads = n_threads or settings.n_threads
    if format_name != "gguf":
        request = export_request(source, format_name, imatrix, **export)
        run_export_command(request, out, output, n_threads=n_threads, force=force, restart=restart, dry_run=dry_run)
        return
    refuse_export_options()
    planned = plan(source, output_type)
    for note in planned.notes:
        output.note(note)
    if dry_run:
        _print_plan(planned, output)
        return
    path = resolve_output(out, settings)
    try:
        with StageBars(output) as bars, InterruptWatch() as watch:

            def show(progress: ConversionProgress) -> None:
                watch.raise_if_requested()
                stage = planned.output.name if progress.stage == "convert" else "reading back"
                bars.update(stage, progress.n_weights_done, progress.n_weights)

            result = write_plan(planned, path, n_threads=n_threads, force=force, restart=restart, on_progress=show)
    except KeyboardInterrupt:
        output.note("stopped; the same command resumes")
        raise
    _print_result(result, output)


def _print_result(result: ConversionResult, output: Output) -> None:
    if output.json_mode:
        output.data({**asdict(result), "path": str(result.path)})
        return
    resumed = f", {format_count(result.n_weights_resumed)} of them before" if result.n_weights_resumed else ""
    rate = f", {format_count(result.weights_per_s)} weights/s" if result.weights_per_s else ""
    output.note(
        f"{result.output_type}: {format_bytes(result.n_bytes)}, {result.bits_per_weight:.2f} bits a weight, "
        f"{format_count(result.n_weights)} weights{resumed}; {format_seconds(result.seconds)}{rate}, "
        f"peak memory {format_memory(result.peak_rss_bytes)}"
    )
    output.line(str(result.path))


def _print_plan(planned: ConversionPlan, output: Output) -> None:
    if output.json_mode:
        output.data(_plan_document(planned))
        return
    output.table(
        ("TENSOR", "SHAPE", "TYPE", "BYTES"),
        [
            (tensor.name, " x ".join(map(str, tensor.shape)), tensor.type.name, f"{tensor.n_bytes:,}")
            for tensor in planned.layout.placed
        ],
        right=(3,),
    )
    output.line()
    print_families(planned.family_totals(), output)
    output.line()
    output.fields(
        [
            ("architecture", planned.model.architecture),
            ("type", planned.output.name),
            ("tensors", len(planned.layout.placed)),
            ("weights", f"{format_count(planned.n_weights)} ({planned.n_weights:,})"),
            ("bits a weight", f"{planned.bits_per_weight:.2f}"),
            ("file", f"{format_bytes(planned.total_bytes)} ({planned.total_bytes:,} bytes)"),
        ]
    )


def _plan_document(planned: ConversionPlan) -> dict[str, Any]:
    return {
        "source": str(planned.source),
        "architecture": planned.model.architecture,
        "type": planned.output.name,
        "n_weights": planned.n_weights,
        "bits_per_weight": round(planned.bits_per_weight, 4),
        "total_bytes": planned.total_bytes,
        "header_bytes": len(planned.layout.header),
        "alignment": planned.layout.alignment,
        "families": [asdict(total) for total in planned.family_totals()],
        "tensors": [
            {
                "name": tensor.name,
                "shape": tensor.shape,
                "type": tensor.type.name,
                "offset_bytes": tensor.offset_bytes,
                "n_bytes": tensor.n_bytes,
            }
            for tensor in planned.layout.placed
        ],
    }
