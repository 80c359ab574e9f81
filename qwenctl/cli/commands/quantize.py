"""`qwenctl quantize`: a GGUF file to one of another type."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from quant.recipe import STOCK_TYPES
from qwenctl.cli.command import Command
from qwenctl.cli.options import output_options, output_type_option, threads_option
from qwenctl.cli.output import Output
from qwenctl.cli.stage_bars import StageBars
from qwenctl.services.conversion import resolve_output
from qwenctl.services.quantization import QuantizationProgress, QuantizationResult, quantize
from qwenctl.settings import Settings
from qwenctl.units import format_bytes, format_count, format_seconds


@click.command(
    "quantize",
    cls=Command,
    examples=[
        "qwenctl quantize model-bf16.gguf model-q4.gguf --type q4_k_m",
        "qwenctl quantize model-q8_0.gguf small.gguf --type iq4_xs --allow-requantize",
    ],
)
@click.argument("source", metavar="IN.gguf", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT")
@output_type_option(STOCK_TYPES)
@threads_option
@click.option("--force", is_flag=True, help="Replace OUT if it is there.")
@click.option("--allow-requantize", is_flag=True, help="Take an input that is quantized already, and lose more.")
@output_options
def command(
    *,
    source: Path,
    out: str,
    output_type: str,
    n_threads: int | None,
    force: bool,
    allow_requantize: bool,
    output: Output,
    settings: Settings,
) -> None:
    """Turn a GGUF file into one of another type.

    The work is llama.cpp's own. OUT is a path that ends in .gguf, or a bare name among the converted models. To convert
    a Hugging Face checkpoint, `qwenctl convert` is better: it needs no intermediate file, and resumes.
    """
    path = resolve_output(out, settings)
    with StageBars(output) as bars:

        def show(progress: QuantizationProgress) -> None:
            bars.update(output_type, progress.n_weights_done, progress.n_weights, progress.tensor)

        result = quantize(
            source,
            path,
            output_type,
            n_threads=n_threads or settings.n_threads,
            force=force,
            allow_requantize=allow_requantize,
            on_progress=show,
        )
    if result.quantized_before:
        output.warning(
            f"the input was quantized already ({', '.join(result.quantized_before)}): "
            "a file made from the original checkpoint answers better"
        )
    _print_result(result, output)


def _print_result(result: QuantizationResult, output: Output) -> None:
    if output.json_mode:
        output.data({**asdict(result), "path": str(result.path)})
        return
    output.note(
        f"{result.output_type}: {format_bytes(result.n_bytes)}, {result.bits_per_weight:.2f} bits a weight, "
        f"{format_count(result.n_weights)} weights; {format_seconds(result.seconds)}, "
        f"{format_count(result.weights_per_s)} weights/s"
    )
    output.line(str(result.path))
