"""`qwenctl imatrix`: statistics of activations, for quantizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from quant.gguf_read import read_gguf
from qwenctl.cli.command import Command
from qwenctl.cli.imatrix_report import print_result
from qwenctl.cli.open_model import find_model
from qwenctl.cli.options import ByteCount, TokenCount, model_argument, output_options, threads_option
from qwenctl.cli.output import Output
from qwenctl.cli.progress import Progress
from qwenctl.errors import InvalidRequest
from qwenctl.moe.offload_options import OffloadMode, OffloadOptions
from qwenctl.services.activation_model import ActivationModel, ReadingOptions
from qwenctl.services.calibration_text import read_texts, shipped_text
from qwenctl.services.imatrix_reading import ReadProgress
from qwenctl.services.imatrix_run import ImatrixRequest, ImatrixResult, gather_imatrix, write_merged
from qwenctl.services.typed_path import typed_path
from qwenctl.settings import Settings
from qwenctl.units import GIB, MIB


@click.command(
    "imatrix",
    cls=Command,
    examples=[
        "qwenctl imatrix qwen3-30b-q8_0 -o qwen3-30b.imatrix.gguf",
        "qwenctl imatrix qwen3-30b-q8_0 -o a.gguf --text wiki.txt --text chats.jsonl --chunks 200",
        "qwenctl imatrix qwen3-30b-q8_0 -o b.gguf --top-up 200 --top-up-tokens 400k",
        "qwenctl imatrix -o both.gguf --merge a.gguf --merge b.gguf --chunks 0  # only adds files up",
        "qwenctl imatrix qwen3-4b-bf16 -o qwen3-4b.imatrix.gguf --hessians qwen3-4b.hessians.safetensors",
    ],
)
@model_argument
@click.option(
    "-o", "--output", "out", required=True, metavar="FILE", help="Where it goes: a GGUF file as llama.cpp reads it."
)
@click.option(
    "--text",
    "texts",
    multiple=True,
    metavar="FILE",
    help="What the model reads: text, or conversations (.jsonl); may be repeated.  [default: what comes with qwenctl]",
)
@click.option("--parse-special", is_flag=True, help='Take "<|im_start|>" and the like in FILE for special tokens.')
@click.option("--chunks", "n_chunks", type=click.IntRange(min=0), metavar="N", help="Read N chunks only; 0: none.")
@click.option(
    "--ctx", "chunk_tokens", type=TokenCount(), default=512, show_default=True, metavar="N", help="Tokens of a chunk."
)
@click.option(
    "--top-up",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Let the model write text until each expert has seen N tokens.",
)
@click.option(
    "--top-up-tokens",
    type=TokenCount(),
    default=128 * 1024,
    metavar="N",
    help="That it writes at most.  [default: 128k]",
)
@click.option(
    "--merge", multiple=True, metavar="FILE", help="Add an importance matrix of the same model; may be repeated."
)
@click.option("--process-output", is_flag=True, help="Measure the output matrix, too.")
@click.option("--hessians", metavar="FILE", help="Also gather second moments, which GPTQ needs: a safetensors file.")
@click.option(
    "--hessian-budget",
    "hessian_budget_bytes",
    type=ByteCount(MIB),
    default=2 * GIB,
    metavar="SIZE",
    help="Memory for them; what does not fit is left out.  [default: 2GiB]",
)
@click.option("--ram", "ram_bytes", type=ByteCount(16 * MIB), metavar="SIZE", help="Memory that the model may take.")
@click.option(
    "--offload",
    type=click.Choice(["auto", "off", "on"]),
    default="auto",
    show_default=True,
    help="Read experts from disk: where they do not fit, never, or always.",
)
@click.option("--exact", is_flag=True, help="Slower, but the same numbers wherever the experts are, to seven digits.")
@threads_option
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option("--restart", is_flag=True, help="Throw away what an interrupted run has left, and begin anew.")
@output_options
def command(
    *,
    model: str | None,
    out: str,
    texts: tuple[str, ...],
    n_chunks: int | None,
    chunk_tokens: int,
    merge: tuple[str, ...],
    hessians: str | None,
    ram_bytes: int | None,
    offload: OffloadMode,
    exact: bool,
    n_threads: int | None,
    output: Output,
    settings: Settings,
    **more: Any,
) -> None:
    """Gather statistics of activations that make quantization better.

    MODEL, a GGUF file or the name of a converted model, reads text; for each column of each weight matrix the squares
    of what it is multiplied with are added up, expert by expert. Files are those of llama.cpp's llama-imatrix. Without
    MODEL, the default model or the bundled demo reads.

    Says which experts saw few tokens or none. Interrupted, the same command goes on where it was saved last.
    """
    request = ImatrixRequest(
        out=typed_path(out),
        n_chunks=n_chunks,
        merge=tuple(typed_path(path) for path in merge),
        hessians=None if hessians is None else typed_path(hessians),
        **more,
    )
    if offload == "off" and ram_bytes is not None:
        raise InvalidRequest("--ram and --offload off exclude each other", "leave one of them out")
    if n_chunks == 0 and not request.top_up:
        print_result(write_merged(request), request, output)
        return
    options = ReadingOptions(
        chunk_tokens,
        n_threads or settings.n_threads,
        OffloadOptions(offload, ram_bytes, calibration_dir=settings.cache_dir),
        exact,
    )
    print_result(_gather(model, texts, request, options, settings, output), request, output)


def _gather(  # noqa: PLR0917 - what the command was given
    model: str | None,
    texts: tuple[str, ...],
    request: ImatrixRequest,
    options: ReadingOptions,
    settings: Settings,
    output: Output,
) -> ImatrixResult:
    text = read_texts([typed_path(path) for path in texts]) if texts else shipped_text()
    path = find_model(model, settings, output)

    def say(opened: ActivationModel) -> None:
        for line in opened.warnings:
            output.warning(line)
        if opened.placement is not None:
            output.note(opened.placement)

    with output.progress("reading", 1, format_amount="{:,.0f}".format) as bar:
        return gather_imatrix(read_gguf(path), text, request, options, on_progress=_shower(bar), on_open=say)


def _shower(bar: Progress) -> Callable[[ReadProgress], None]:
    def show(progress: ReadProgress) -> None:
        remark = f"tokens · {progress.n_thin} experts lack some" if progress.stage == "writing" else "tokens"
        bar.update(progress.n_done, remark, total=progress.n_total)

    return show
