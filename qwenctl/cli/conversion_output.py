"""What `qwenctl convert` shows while it writes, and when it is done: the same for GGUF files and exported folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

from quant.pipeline import ConversionProgress
from qwenctl.cli.interrupt import InterruptWatch
from qwenctl.cli.output import Output
from qwenctl.cli.stage_bars import StageBars
from qwenctl.services.conversion import ConversionResult
from qwenctl.services.safetensors_export import ExportResult
from qwenctl.units import format_count, format_memory, format_seconds

_STAGES = {"search": "channel factors", "check": "reading back"}


@contextmanager
def conversion_bars(output: Output, converting: str) -> Iterator[Callable[[ConversionProgress], None]]:
    """Yield what is to be told the progress: it shows it, and breaks off on Ctrl-C.

    Args:
        output: where.
        converting: what the stage "convert" is called.
    """
    names: Mapping[str, str] = {**_STAGES, "convert": converting}
    try:
        with StageBars(output) as bars, InterruptWatch() as watch:

            def show(progress: ConversionProgress) -> None:
                watch.raise_if_requested()
                bars.update(names[progress.stage], progress.n_weights_done, progress.n_weights)

            yield show
    except KeyboardInterrupt:
        output.note("stopped; the same command resumes")
        raise


def print_conversion(result: ConversionResult | ExportResult, made: str, output: Output) -> None:
    """Print what came of it: its path to standard output, the figures to standard error, or all of it as JSON.

    Args:
        result: what was done.
        made: what it is, with its size.
        output: where.
    """
    if output.json_mode:
        output.data({**asdict(result), "path": str(result.path)})
        return
    resumed = f", {format_count(result.n_weights_resumed)} of them before" if result.n_weights_resumed else ""
    rate = f", {format_count(result.weights_per_s)} weights/s" if result.weights_per_s else ""
    output.note(
        f"{made}, {result.bits_per_weight:.2f} bits a weight, {format_count(result.n_weights)} weights{resumed}; "
        f"{format_seconds(result.seconds)}{rate}, peak memory {format_memory(result.peak_rss_bytes)}"
    )
    output.line(str(result.path))
