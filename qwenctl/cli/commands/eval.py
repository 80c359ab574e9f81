"""`qwenctl eval`: how good models are on a text, by themselves or against a reference."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import click

from qwenctl.cli.command import Command
from qwenctl.cli.evaluation_view import divergence_document, perplexity_document, show_divergence, show_perplexity
from qwenctl.cli.evaluation_words import tell_apart
from qwenctl.cli.open_model import find_model
from qwenctl.cli.options import ByteCount, TokenCount, output_options, threads_option
from qwenctl.cli.output import Output
from qwenctl.cli.prompt_input import STDIN
from qwenctl.errors import InvalidRequest
from qwenctl.moe.offload_options import OffloadMode, OffloadOptions
from qwenctl.services.evaluation import (
    EvaluationOptions,
    Listener,
    PerplexityRow,
    evaluate_divergence,
    evaluate_perplexity,
)
from qwenctl.services.evaluation_run import EvaluationProgress
from qwenctl.services.evaluation_text import EvaluationText, read_file, read_stream, shipped_text
from qwenctl.services.typed_path import typed_path
from qwenctl.settings import Settings
from qwenctl.units import MIB

_PERPLEXITY, _DIVERGENCE = "ppl", "kld"
_MOST_SHOWN = 99.0  # nats; e to the power of more is not a number to look at


@click.command(
    "eval",
    cls=Command,
    examples=[
        "qwenctl eval ppl qwen3-30b wiki.test.raw",
        "qwenctl eval kld q4.gguf iq4.gguf --reference bf16.gguf wiki.test.raw --chunks 40",
        "qwenctl eval kld qwen3-30b --reference qwen3-30b-bf16 --ram 48GiB    # the built-in text, one model at a time",
        "qwenctl eval kld q4.gguf --reference f32.gguf --json | jq '.models[0].divergence.mean'",
    ],
)
@click.argument("metric", type=click.Choice([_PERPLEXITY, _DIVERGENCE]), metavar="ppl|kld")
@click.argument("words", nargs=-1, metavar="[MODEL]... [TEXT]")
@click.option("--reference", metavar="MODEL", help="The model to hold the others against; kld needs one.")
@click.option(
    "--chunks", "most_chunks", type=click.IntRange(min=1), metavar="N", help="Only the first N chunks of TEXT."
)
@click.option(
    "--ctx", "n_ctx", type=TokenCount(), default=512, show_default=True, metavar="N", help="Tokens of a chunk."
)
@click.option("--parse-special", is_flag=True, help="Take <|im_start|> and the like in TEXT as special tokens.")
@threads_option
@click.option(
    "--ram",
    "ram_bytes",
    type=ByteCount(16 * MIB),
    metavar="SIZE",
    help="Memory that models may take in all: 48GiB.  [default: what is available]",
)
@click.option(
    "--vram",
    "vram_bytes",
    type=ByteCount(),
    metavar="SIZE",
    help="Memory that they may take of all GPUs together: 20GiB.  [default: what is free]",
)
@click.option(
    "--offload",
    type=click.Choice(["auto", "off", "on"]),
    default="auto",
    show_default=True,
    help="Read a Mixture-of-Experts model's experts from disk: where it does not fit, never, or always.",
)
@output_options
def command(
    *,
    metric: str,
    words: tuple[str, ...],
    reference: str | None,
    most_chunks: int | None,
    n_ctx: int,
    parse_special: bool,
    n_threads: int | None,
    ram_bytes: int | None,
    vram_bytes: int | None,
    offload: OffloadMode,
    output: Output,
    settings: Settings,
) -> None:
    """Measure how good models are on a text.

    ppl is perplexity: how much each next token is a surprise. kld is Kullback-Leibler divergence: how far a model's
    predictions are from those of the reference, the same model at a higher precision; it shows what a quantization
    costs where perplexity, which may even improve, does not.

    The method is llama-perplexity's, so figures compare: TEXT is cut into chunks of 512 tokens, each is computed by
    itself, and the second half is scored. The reference's predictions are computed on the way; no file is written.

    MODEL is a GGUF file or a model's name, one or several; without it, the default model or the bundled demo. TEXT is a
    file, or - for standard input; without it, a text in several languages that comes with the program.
    """
    _check_options(metric, reference, offload, ram_bytes, vram_bytes)
    models, text_name = tell_apart(words, settings)
    options = EvaluationOptions(
        n_ctx=n_ctx,
        most_chunks=most_chunks,
        n_threads=n_threads or settings.n_threads,
        parse_special=parse_special,
        offload=replace(OffloadOptions(offload, ram_bytes, vram_bytes), calibration_dir=settings.cache_dir),
    )
    text = _read_text(text_name, output)
    paths = [find_model(name, settings, output) for name in models or (None,)]
    if reference is None:
        _perplexity(paths, text, options, output)
    else:
        _divergence(paths, find_model(reference, settings, output), text, options, output)


def _check_options(
    metric: str, reference: str | None, offload: OffloadMode, ram_bytes: int | None, vram_bytes: int | None
) -> None:
    if metric == _DIVERGENCE and reference is None:
        raise InvalidRequest("kld needs a reference", "qwenctl eval kld MODEL --reference BF16.gguf TEXT")
    if metric == _PERPLEXITY and reference is not None:
        raise InvalidRequest("ppl has no reference", "leave --reference out, or use kld: it shows perplexities, too")
    for name, value in (("--ram", ram_bytes), ("--vram", vram_bytes)):
        if offload == "off" and value is not None:
            raise InvalidRequest(f"{name} and --offload off exclude each other", "leave one of them out")


def _read_text(name: str | None, output: Output) -> EvaluationText:
    if name is None:
        return shipped_text()
    if name != STDIN:
        return read_file(typed_path(name), output.warning)
    if sys.stdin.isatty():
        raise InvalidRequest("standard input is a terminal", "pipe the text in, or name a file")
    return read_stream(sys.stdin.buffer, "standard input", output.warning)


def _perplexity(paths: list[Path], text: EvaluationText, options: EvaluationOptions, output: Output) -> None:
    rows = [_perplexity_of(path, text, options, output) for path in paths]
    if output.json_mode:
        output.data(perplexity_document(rows, text.name, options.n_ctx))
    else:
        show_perplexity(rows, output)


def _perplexity_of(path: Path, text: EvaluationText, options: EvaluationOptions, output: Output) -> PerplexityRow:
    with output.progress(path.stem, 1) as bar:

        def show(done: EvaluationProgress) -> None:
            remark = f"PPL {math.exp(min(done.mean_surprise, _MOST_SHOWN)):.4f}"
            bar.update(done.n_done, remark, total=done.n_total)

        return evaluate_perplexity(path, text, options, Listener(show, output.note, output.warning))


def _divergence(
    paths: list[Path], reference: Path, text: EvaluationText, options: EvaluationOptions, output: Output
) -> None:
    with output.progress("evaluating", 1) as bar:

        def show(done: EvaluationProgress) -> None:
            bar.update(done.n_done, f"{done.path.stem}: KLD {done.mean_divergence:.5f}", total=done.n_total)

        listener = Listener(show, output.note, output.warning)
        report = evaluate_divergence(paths, reference, text, options, listener)
    if output.json_mode:
        output.data(divergence_document(report, text.name, options.n_ctx))
    else:
        show_divergence(report, output)
        output.note(f"{report.reference.n_tokens:,} tokens of {text.name} in {report.reference.n_chunks} chunks")
