"""`qwenctl convert`: a Hugging Face checkpoint to GGUF in one pass, or to an AWQ or GPTQ folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from qwenctl.cli.command import Command
from qwenctl.cli.conversion_output import conversion_bars, print_conversion
from qwenctl.cli.conversion_report import print_plan
from qwenctl.cli.encoding_options import EncodingOptions, encoding_options
from qwenctl.cli.export_options import export_options, export_request, refuse_export_options
from qwenctl.cli.export_report import run_export_command
from qwenctl.cli.interrupt import InterruptWatch
from qwenctl.cli.options import output_options, threads_option
from qwenctl.cli.output import Output
from qwenctl.services.conversion import plan, resolve_output, write_plan
from qwenctl.services.conversion_warnings import conversion_warnings
from qwenctl.services.type_choice import ChosenPlan
from qwenctl.settings import Settings
from qwenctl.units import format_bytes


@click.command(
    "convert",
    cls=Command,
    examples=[
        "qwenctl convert Qwen3-30B-A3B qwen3-30b            # to q4_k_m, among the converted models",
        "qwenctl convert Qwen3-30B-A3B /data/q8.gguf --type q8_0",
        "qwenctl convert Qwen3-30B-A3B qwen3-30b --budget 4.5bpw --imatrix qwen3-30b.imatrix.gguf",
        "qwenctl convert Qwen3-30B-A3B qwen3-30b --dry-run  # types and sizes; nothing is written",
        "qwenctl convert Qwen3-30B-A3B qwen3-30b-awq --format awq --imatrix qwen3-30b.imatrix.gguf",
    ],
)
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT")
@encoding_options
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
    encoding: EncodingOptions,
    format_name: str,
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

    --type is one of llama.cpp's mixtures, or one of ours: q4_k_m+ and iq4+ give more bits to weights that every token
    uses and take them from the others. --budget does so for your model, by measured errors, at any size.
    """
    n_threads = n_threads or settings.n_threads
    if format_name != "gguf":
        request = export_request(source, format_name, encoding.imatrix, **export)
        run_export_command(request, out, output, n_threads=n_threads, force=force, restart=restart, dry_run=dry_run)
        return
    refuse_export_options()
    chosen = _plan(source, encoding, n_threads, output)
    planned = chosen.plan
    for note in planned.notes:
        output.note(note)
    for warning in conversion_warnings(planned, encoding.request.quality):
        output.warning(warning)
    if dry_run:
        print_plan(chosen, output)
        return
    path = resolve_output(out, settings)
    quality = encoding.request.quality
    with conversion_bars(output, planned.output.name) as show:
        result = write_plan(
            planned, path, quality=quality, n_threads=n_threads, force=force, restart=restart, on_progress=show
        )
    print_conversion(result, f"{result.output_type}: {format_bytes(result.n_bytes)}", output)


def _plan(source: Path, encoding: EncodingOptions, n_threads: int | None, output: Output) -> ChosenPlan:
    """Plan; where there is a budget, show how far its measurements are."""
    if encoding.request.budget is None:
        return plan(source, encoding.request, encoding.imatrix, n_threads=n_threads)
    with output.progress("measuring", 1) as bar, InterruptWatch() as watch:

        def show(n_done: int, n_tensors: int) -> None:
            watch.raise_if_requested()
            bar.update(n_done / n_tensors, f"{n_done} of {n_tensors} tensors")

        return plan(source, encoding.request, encoding.imatrix, n_threads=n_threads, on_progress=show)
