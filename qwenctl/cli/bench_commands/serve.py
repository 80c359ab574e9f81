"""`qwenctl bench serve`: how a server does with one to many requests at a time."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path

import click

from qwenctl.cli.bench_options import Numbers, plot_option, write_plot
from qwenctl.cli.command import Command
from qwenctl.cli.options import context_option, model_argument, output_options, threads_option
from qwenctl.cli.output import Output
from qwenctl.errors import GenerationFailed, InvalidRequest
from qwenctl.services.bench.bench_prompts import questions
from qwenctl.services.bench.http_load import Target, run_load
from qwenctl.services.bench.line_plot import Panel
from qwenctl.services.bench.load_summary import LoadRow, load_row
from qwenctl.services.bench.own_server import own_server
from qwenctl.services.engine_options import MAX_PARALLEL
from qwenctl.settings import Settings

_LEAST_REQUESTS = 4


@click.command(
    "serve",
    cls=Command,
    examples=[
        "qwenctl bench serve qwen3-30b",
        "qwenctl bench serve --url http://127.0.0.1:8000 --concurrency 1,8,32 --plot curve.svg",
        "qwenctl bench serve --url http://127.0.0.1:11434 --model-name qwen3:30b    # any server with OpenAI's API",
    ],
)
@model_argument
@click.option("--url", metavar="URL", help="A server that runs already, over plain HTTP.  [default: one is started]")
@click.option("--model-name", metavar="NAME", help="The model to ask that server for.")
@click.option("--api-key", metavar="KEY", help="The key to send with each request.")
@click.option(
    "--concurrency", type=Numbers(1024), default="1,2,4,8,16,32", show_default=True, metavar="N,N,…",
    help="Requests at the same time.",
)  # fmt: skip
@click.option(
    "--requests", "n_per_client", type=click.IntRange(1, 10_000), default=3, show_default=True, metavar="N",
    help="Requests for each of those that run at the same time.",
)  # fmt: skip
@click.option(
    "--answer", "n_generated", type=click.IntRange(1, 65536), default=64, show_default=True, metavar="N",
    help="Most tokens of an answer.",
)  # fmt: skip
@click.option("--no-stream", is_flag=True, help="Ask for answers in one piece.")
@context_option
@threads_option
@plot_option
@output_options
def command(
    *,
    model: str | None,
    url: str | None,
    model_name: str | None,
    api_key: str | None,
    concurrency: tuple[int, ...],
    n_per_client: int,
    n_generated: int,
    no_stream: bool,
    n_ctx: int | None,
    n_threads: int | None,
    plot_file: Path | None,
    output: Output,
    settings: Settings,
) -> None:
    """Measure a server with one to many requests at a time.

    Without --url, `qwenctl serve MODEL` is started for it and ended afterwards. FIRST TEXT is the time from a request
    to the first piece of its answer, GAP the time between two pieces. Each request is a question that no cache knows.
    """
    if url is not None and (model is not None or n_ctx is not None or n_threads is not None):
        raise InvalidRequest("--url names a server that has its model and options already", "leave the others out")
    if url is None and (model_name is not None or api_key is not None):
        raise InvalidRequest("--model-name and --api-key are for a server that runs already", "name it with --url")
    name = model_name or model or (None if url else settings.model)
    rows: list[LoadRow] = []
    running: AbstractContextManager[Target] = (
        nullcontext(Target(url, model_name, api_key))
        if url is not None
        else own_server(_words(model, min(MAX_PARALLEL, concurrency[-1]), n_ctx, n_threads))
    )
    with running as target:
        _measure(target, 1, 1, 2, stream=not no_stream)  # the first one pays for what is loaded on demand
        with output.progress("measuring", len(concurrency)) as bar:
            for number, n_at_a_time in enumerate(concurrency):
                n_requests = max(_LEAST_REQUESTS, n_at_a_time * n_per_client)
                rows.append(_measure(target, n_at_a_time, n_requests, n_generated, stream=not no_stream))
                bar.update(number + 1)
    if output.json_mode:
        output.data({"url": url, "model": name, "rows": [asdict(row) for row in rows]})
    else:
        _show(rows, output)
    write_plot(plot_file, _panels(rows), name or url or "the default model")
    if failed := next((row for row in rows if row.error is not None), None):
        raise GenerationFailed(f"{sum(row.n_failed for row in rows)} requests failed: {failed.error}")


def _words(model: str | None, n_parallel: int, n_ctx: int | None, n_threads: int | None) -> list[str]:
    words = [] if model is None else [model]
    words += ["--parallel", str(n_parallel), "--queue", "2048", "--no-prompt-cache"]
    words += [] if n_ctx is None else ["--ctx", str(n_ctx)]
    return words if n_threads is None else [*words, "--threads", str(n_threads)]


def _measure(target: Target, concurrency: int, n_requests: int, n_generated: int, *, stream: bool) -> LoadRow:
    prompts = questions(n_requests, int.from_bytes(os.urandom(6), "big"))
    started_s = time.perf_counter()
    answers = asyncio.run(run_load(target, prompts, concurrency, n_generated, stream=stream))
    return load_row(concurrency, answers, time.perf_counter() - started_s)


def _show(rows: list[LoadRow], output: Output) -> None:
    output.table(
        ("AT A TIME", "REQUESTS", "TOKENS", "TOKENS/S", "FIRST TEXT 50 %", "95 %", "GAP 50 %", "95 %", "99 %"),
        [
            (
                row.concurrency,
                row.n_requests if not row.n_failed else f"{row.n_requests} ({row.n_failed} failed)",
                row.n_generated_tokens,
                f"{row.tokens_per_s:.1f}",
                *(_milliseconds(row.first_text_s, index) for index in (0, 1)),
                *(_milliseconds(row.gap_s, index) for index in (0, 1, 2)),
            )
            for row in rows
        ],
        right=tuple(range(9)),
    )


def _milliseconds(percentiles: tuple[float, float, float] | None, index: int) -> str:
    return "-" if percentiles is None else f"{1000 * percentiles[index]:.1f} ms"


def _panels(rows: list[LoadRow]) -> list[Panel]:
    places, label = tuple(float(row.concurrency) for row in rows), "requests at the same time"

    def times(name: str, values: list[tuple[float, float, float] | None]) -> Panel:
        curves = [
            (title, tuple(None if one is None else 1000 * one[index] for one in values))
            for title, index in (("median", 0), ("95 %", 1))
        ]
        return Panel(name, label, places, tuple(curves))

    return [
        Panel("tokens/s", label, places, (("generated", tuple(row.tokens_per_s for row in rows)),)),
        times("first text, ms", [row.first_text_s for row in rows]),
        times("gap between pieces, ms", [row.gap_s for row in rows]),
    ]
