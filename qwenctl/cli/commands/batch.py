"""`qwenctl batch`: a file of prompts, a file of answers."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import click

from qwenctl.cli.batch_files import check_input, find_workers, input_path, opened_model
from qwenctl.cli.batch_flags import BatchFlags, batch_flags
from qwenctl.cli.batch_report import report, shown_on
from qwenctl.cli.command import Command
from qwenctl.cli.configured_options import configurable
from qwenctl.cli.engine_flags import engine_flags
from qwenctl.cli.interrupt import InterruptWatch
from qwenctl.cli.options import output_options
from qwenctl.cli.output import Output
from qwenctl.cli.parallel_option import with_parallel
from qwenctl.cli.sampling_options import ReplyOptions, reply_options
from qwenctl.cli.server_flags import server_flags
from qwenctl.errors import InvalidRequest
from qwenctl.services.batch import run_batch
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.server_choice import ServerChoice
from qwenctl.services.typed_path import typed_path
from qwenctl.settings import Settings


@click.command(
    "batch",
    cls=Command,
    examples=[
        "qwenctl batch questions.jsonl -o answers.jsonl",
        "qwenctl batch qwen3-30b questions.jsonl -o answers.jsonl --parallel 16 --ctx 4k",
        "qwenctl batch qwen3-30b questions.jsonl -o answers.jsonl --check",
        "qwenctl batch qwen3-30b questions.jsonl -o answers.jsonl --retry-errors",
        "qwenctl batch questions.jsonl -o answers.jsonl --server http://one:8000,http://two:8000",
        "jq -c '{prompt: .title}' news.jsonl | qwenctl batch qwen3-30b - -o answers.jsonl",
    ],
)
@click.argument("model", required=False, metavar="[MODEL]")
@click.argument("in_file", metavar="IN.jsonl", required=False)
@configurable
@click.option("-o", "--output", "out_file", required=True, metavar="FILE", help="Where the answers go.")
@batch_flags
@server_flags
@reply_options
@engine_flags
@output_options
def command(
    *,
    model: str | None,
    in_file: str | None,
    out_file: str,
    flags: BatchFlags,
    servers: ServerChoice,
    reply: ReplyOptions,
    engine: EngineOptions,
    output: Output,
    settings: Settings,
) -> None:
    """Answer a file of prompts.

    IN.jsonl holds one JSON object a line: {"prompt": "…"}, or a line of the OpenAI batch format. "-" is standard input.
    MODEL is a GGUF file or a model's name; without it, the default model answers (`qwenctl models default`), or the
    bundled demo. With --server, the lines go to servers that are running, and to MODEL only where it is named.

    Answers are appended to FILE as they finish, each with its line's custom_id; with --order input, those that finish
    before their turn wait in FILE.pending. Run the same command again after an interruption: what is finished is never
    done again. A line that cannot be answered gets an error record, and the exit code is 1. So it is when
    --max-total-tokens ended the run: a line is begun only when the most that it can take still fits, so give
    --max-tokens, too. With --check, nothing is generated, and the exit code is 2 when some lines cannot be answered.
    """
    model, in_file = (model, in_file) if in_file is not None else (None, model)
    if in_file is None:
        raise InvalidRequest("no file of prompts", "qwenctl batch questions.jsonl -o answers.jsonl")
    if reply.overflow == "summarise":
        raise InvalidRequest("a batch summarises nothing", "--overflow truncate-middle, or refuse")
    options = flags.options(reply.chat_options())
    out_path = typed_path(out_file)
    check_input(in_file)
    served = find_workers(servers, flags.parallel, settings, output)
    if model is not None or not served:
        engine = with_parallel(engine, flags.parallel, model, "batch", settings=settings, output=output)
        options = replace(options, parallel=engine.n_parallel)
    with (
        opened_model(model, engine, settings, output, optional=bool(served)) as chat_model,
        input_path(in_file) as in_path,
    ):
        if flags.check:
            show, identities = import_module("qwenctl.cli.batch_check_view"), [one.identity for one in served]
            show.check_and_show(chat_model, (in_path, out_path), options, identities, settings=settings, output=output)
            return
        with output.progress("answering", 1, tells_time=False) as bar, InterruptWatch() as watch:
            summary = run_batch(chat_model, in_path, out_path, options, shown_on(bar, watch), servers=served)
        offload = chat_model.engine.offload_stats() if chat_model else None
    report(summary, offload, out_path, output)
    if (failure := summary.failure(out_path)) is not None:
        raise failure
