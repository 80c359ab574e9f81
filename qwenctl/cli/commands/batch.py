"""`qwenctl batch`: a file of prompts, a file of answers."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from qwenctl.cli.command import Command
from qwenctl.cli.configured_options import configurable
from qwenctl.cli.engine_flags import engine_flags
from qwenctl.cli.interrupt import InterruptWatch
from qwenctl.cli.open_model import open_model
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.cli.prompt_input import STDIN, text_or_file
from qwenctl.cli.reply_stats import tokens_per_second
from qwenctl.cli.sampling_options import ReplyOptions, reply_options
from qwenctl.errors import InvalidRequest
from qwenctl.services.batch import BatchOptions, BatchProgress, BatchSummary, run_batch
from qwenctl.services.engine_options import MAX_PARALLEL, EngineOptions
from qwenctl.settings import Settings
from qwenctl.units import format_seconds


@click.command(
    "batch",
    cls=Command,
    examples=[
        "qwenctl batch questions.jsonl -o answers.jsonl",
        "qwenctl batch qwen3-30b questions.jsonl -o answers.jsonl --parallel 16 --ctx 4k",
        "qwenctl batch qwen3-30b questions.jsonl -o answers.jsonl --retry-errors",
        "jq -c '{prompt: .title}' news.jsonl | qwenctl batch qwen3-30b - -o answers.jsonl",
    ],
)
@click.argument("model", required=False, metavar="[MODEL]")
@click.argument("in_file", metavar="IN.jsonl", required=False)
@configurable
@click.option("-o", "--output", "out_file", required=True, metavar="FILE", help="Where the answers go.")
@click.option(
    "--parallel",
    type=click.IntRange(1, MAX_PARALLEL),
    default=8,
    show_default=True,
    metavar="N",
    help="Answers at the same time.",
)
@click.option("--restart", is_flag=True, help="Throw away what FILE holds, and answer all lines anew.")
@click.option("--retry-errors", is_flag=True, help="Answer the lines again whose record in FILE is an error.")
@click.option("--system", metavar="TEXT", help="System prompt of lines without one; @FILE reads it from a file.")
@reply_options
@engine_flags
@output_options
def command(
    *,
    model: str | None,
    in_file: str | None,
    out_file: str,
    parallel: int,
    restart: bool,
    retry_errors: bool,
    system: str | None,
    reply: ReplyOptions,
    engine: EngineOptions,
    output: Output,
    settings: Settings,
) -> None:
    """Answer a file of prompts.

    IN.jsonl holds one JSON object a line: {"prompt": "…"}, or a line of the OpenAI batch format. "-" is standard input.
    MODEL is a GGUF file or a model's name; without it, the default model answers (`qwenctl models default`), or the
    bundled demo.

    Answers are appended to FILE as they finish, each with its line's custom_id, in the order in which they finish. Run
    the same command again after an interruption: lines that FILE answers already are left out. A line that cannot be
    answered gets an error record, and the exit code is 1.
    """
    model, in_file = (model, in_file) if in_file is not None else (None, model)
    if in_file is None:
        raise InvalidRequest("no file of prompts", "qwenctl batch questions.jsonl -o answers.jsonl")
    options = BatchOptions(reply.chat_options(), text_or_file(system), parallel, restart, retry_errors)
    out_path = Path(out_file).expanduser()
    _check_input(in_file)
    with (
        open_model(model, replace(engine, n_parallel=parallel), settings, output) as chat_model,
        _input_path(in_file) as in_path,
        output.progress("answering", 1) as bar,
        InterruptWatch() as watch,
    ):

        def show(progress: BatchProgress) -> None:
            watch.raise_if_requested()
            remark = f"{progress.tokens_per_s:.1f} tokens/s"
            errors = f" · {progress.n_errors} errors" if progress.n_errors else ""
            bar.update(progress.n_finished, remark + errors, total=progress.n_total)

        summary = run_batch(chat_model, in_path, out_path, options, show)
        offload = chat_model.engine.offload_stats()
    _report(summary, offload, out_path, output)
    if (failure := summary.failure(out_path)) is not None:
        raise failure


def _check_input(in_file: str) -> None:
    """Refuse what can be refused before a model is loaded."""
    if in_file == STDIN and sys.stdin.isatty():
        raise InvalidRequest("standard input is a terminal", "pipe the lines in, or name a file")
    if in_file != STDIN and not Path(in_file).expanduser().is_file():
        raise InvalidRequest(f"no file {in_file}", "it holds one JSON object a line: qwenctl batch --help")


@contextmanager
def _input_path(in_file: str) -> Iterator[Path]:
    """Return the input as a file that can be read twice: what is piped in is written to a temporary one."""
    if in_file != STDIN:
        yield Path(in_file).expanduser()
        return
    with tempfile.NamedTemporaryFile(prefix="qwenctl-batch-", suffix=".jsonl") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
        file.flush()
        yield Path(file.name)


def _report(summary: BatchSummary, offload: dict[str, Any] | None, out_path: Path, output: Output) -> None:
    rate = tokens_per_second(summary.n_generated_tokens, summary.seconds)
    if output.json_mode:
        rounded = None if rate is None else round(rate, 2)
        output.data({"output": str(out_path), **asdict(summary), "tokens_per_s": rounded, "offload": offload})
        return
    parts = [f"{summary.n_done} answered"]
    if summary.n_skipped:
        parts.append(f"{summary.n_skipped} already there")
    if summary.n_errors:
        parts.append(f"{summary.n_errors} errors")
    parts.append(f"{summary.n_generated_tokens} tokens in {format_seconds(summary.seconds)}")
    if rate:
        parts.append(f"{rate:.1f} tokens/s")
    output.note(f"{out_path}: {' · '.join(parts)}")
