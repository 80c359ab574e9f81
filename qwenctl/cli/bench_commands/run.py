"""`qwenctl bench run`: how fast a model reads and answers on this machine."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import click

from qwenctl.cli.bench_options import Numbers, plot_option, write_plot
from qwenctl.cli.command import Command
from qwenctl.cli.engine_flags import engine_flags
from qwenctl.cli.open_model import open_model
from qwenctl.cli.options import model_argument, output_options
from qwenctl.cli.output import Output
from qwenctl.errors import PromptTooLong
from qwenctl.services.bench.line_plot import Panel
from qwenctl.services.bench.model_speed import SpeedRow, measure_model
from qwenctl.services.engine_options import EngineOptions
from qwenctl.settings import Settings

_SLACK_TOKENS = 64  # a prompt of whole sentences is a little longer than asked for


@click.command(
    "run",
    cls=Command,
    examples=[
        "qwenctl bench run qwen3-30b",
        "qwenctl bench run qwen3-30b --prompts 128,1024,8192 --ram 16GiB --plot speed.svg",
        "qwenctl bench run --json | jq '.rows[].decode_tokens_per_s'",
    ],
)
@model_argument
@click.option(
    "--prompts", "lengths", type=Numbers(1 << 20), default="64,512,2048", show_default=True, metavar="N,N,…",
    help="Tokens of the prompts.",
)  # fmt: skip
@click.option(
    "--answer", "n_generated", type=click.IntRange(2, 65536), default=64, show_default=True, metavar="N",
    help="Tokens of an answer; the model may end it earlier.",
)  # fmt: skip
@click.option(
    "--rounds", "n_rounds", type=click.IntRange(1, 100), default=3, show_default=True, metavar="N",
    help="Times that each is measured; the medians are shown.",
)  # fmt: skip
@plot_option
@engine_flags
@output_options
def command(
    *,
    model: str | None,
    lengths: tuple[int, ...],
    n_generated: int,
    n_rounds: int,
    plot_file: Path | None,
    engine: EngineOptions,
    output: Output,
    settings: Settings,
) -> None:
    """Measure a model by itself, one request at a time.

    Prefill is the reading of a prompt, decode the writing of an answer; the first token comes when the prompt is read.
    Prompts are new every time, so no cache helps. MODEL is a GGUF file or a model's name.
    """
    n_ctx = engine.n_ctx or lengths[-1] + _SLACK_TOKENS + n_generated
    alone = replace(engine, n_ctx=n_ctx, n_parallel=1, prefix_cache=None)  # prompts of an earlier run would be on disk
    with (
        open_model(model, alone, settings, output) as chat_model,
        output.progress("measuring", len(lengths) * n_rounds) as bar,
    ):
        n_done = 0

        def show() -> None:
            nonlocal n_done
            n_done += 1
            bar.update(n_done)

        try:
            rows = measure_model(chat_model, lengths, n_generated, n_rounds, show)
        except PromptTooLong as error:
            error.hint = "give a larger --ctx, or shorter --prompts"
            raise
        info = chat_model.engine.info
    if output.json_mode:
        output.data(
            {"model": info.name, "path": info.path, "n_rounds": n_rounds, "rows": [asdict(row) for row in rows]}
        )
    else:
        _show(rows, output)
    write_plot(plot_file, _panels(rows), info.name)


def _show(rows: list[SpeedRow], output: Output) -> None:
    output.table(
        ("PROMPT", "PREFILL TOKENS/S", "FIRST TOKEN", "ANSWER", "DECODE TOKENS/S"),
        [
            (
                row.n_prompt_tokens,
                f"{row.prefill_tokens_per_s:.1f}",
                f"{1000 * row.first_token_s:.1f} ms",
                row.n_generated_tokens,
                "-" if row.decode_tokens_per_s is None else f"{row.decode_tokens_per_s:.1f}",
            )
            for row in rows
        ],
        right=(0, 1, 2, 3, 4),
    )


def _panels(rows: list[SpeedRow]) -> list[Panel]:
    places = tuple(float(row.n_prompt_tokens) for row in rows)
    label = "tokens of the prompt"
    return [
        Panel("prefill, tokens/s", label, places, (("prefill", tuple(row.prefill_tokens_per_s for row in rows)),)),
        Panel("decode, tokens/s", label, places, (("decode", tuple(row.decode_tokens_per_s for row in rows)),)),
        Panel("first token, ms", label, places, (("first token", tuple(1000 * row.first_token_s for row in rows)),)),
    ]
