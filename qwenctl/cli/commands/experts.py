"""`qwenctl experts`: which experts a model's tokens are sent to, and what keeping some in memory would bring."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from qwenctl.cli.command import Command
from qwenctl.cli.expert_view import report_csv, report_document, show_report
from qwenctl.cli.open_model import open_model
from qwenctl.cli.options import TokenCount, context_option, model_argument, output_options, threads_option
from qwenctl.cli.output import Output
from qwenctl.cli.prompt_input import STDIN
from qwenctl.errors import InvalidRequest
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.expert_report import FRACTIONS, ExpertReport, expert_bytes_of, report_on
from qwenctl.services.expert_run import TracedPrompt, read_prompts, run_prompts, sample_prompts
from qwenctl.services.generation import ChatOptions
from qwenctl.services.model_store import locate_model
from qwenctl.services.typed_path import typed_path
from qwenctl.settings import Settings

_SEED = 1  # the same answers each time, and so the same numbers
_NARROWEST_COLUMNS, _MOST_LAYERS = 20, 1 << 16


class LayerNumbers(click.ParamType[frozenset[int]]):
    """Layers as "0-3,10"."""

    name = "layers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[int]:
        """Return the layers that `value` names."""
        layers: set[int] = set()
        for part in value.split(","):
            match = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", part, re.ASCII)
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
            if first > last:
                self.fail(f"{value!r} does not name layers; write 5, or 0-3,10", param, ctx)
            layers.update(range(first, last + 1))
        return frozenset(layers)


@click.command(
    "experts",
    cls=Command,
    examples=[
        "qwenctl experts qwen3-30b",
        "qwenctl experts qwen3-30b --prompts questions.txt --trace questions.trace",
        "qwenctl experts --from-trace questions.trace --layers 0-3,47",
        "qwenctl experts qwen3-30b --csv > uses.csv",
        "qwenctl experts qwen3-30b --json | jq '.budgets[] | [.fraction, .hit_rate]'",
    ],
)
@model_argument
@click.option("--prompts", metavar="FILE", help='Prompts, one a line: text, or JSON as for batch; "-" is piped in.')
@click.option(
    "--max-tokens", type=TokenCount(), default=64, show_default=True, metavar="N", help="Length of an answer."
)
@click.option("--trace", metavar="FILE", help="Keep the recorded routing in FILE.")
@click.option("--from-trace", metavar="FILE", help="Run nothing; evaluate the routing in FILE.")
@click.option("--layers", type=LayerNumbers(), metavar="LIST", help="Only these layers: 0-3,10.")
@click.option(
    "--csv", "csv_mode", is_flag=True, help="Write one line for each layer and expert: layer,expert,uses,share."
)
@context_option
@threads_option
@output_options
def command(
    *,
    model: str | None,
    prompts: str | None,
    max_tokens: int,
    trace: str | None,
    from_trace: str | None,
    layers: frozenset[int] | None,
    csv_mode: bool,
    n_ctx: int | None,
    n_threads: int | None,
    output: Output,
    settings: Settings,
) -> None:
    """Show which experts a Mixture-of-Experts model uses.

    MODEL is a GGUF file or a model's name; without it, the default model or the bundled demo. It answers some prompts
    that come with the program, or those in FILE, while the experts that each token is sent to are counted.

    Shows how much each expert of each layer is used, how uneven that is, whether a layer has collapsed to a few
    experts, and the hit rate to expect when only a part of all experts is kept in memory.

    A trace holds numbers of experts only, no text and no tokens. Nothing is sent anywhere.
    """
    _check_options(prompts, trace, from_trace, csv_mode=csv_mode, json_mode=output.json_mode)
    if from_trace is not None:
        n_bytes = _expert_bytes(model, settings) if model else None
        report = _evaluate(typed_path(from_trace), layers, n_bytes, output)
        _print(report, output, csv_mode=csv_mode)
        return
    n_bytes = _expert_bytes(model, settings)
    asked = _prompts(prompts, ChatOptions(sampling={"seed": _SEED}, max_tokens=max_tokens))
    with _trace_path(trace) as path:
        options = EngineOptions(n_ctx=n_ctx, n_threads=n_threads or settings.n_threads, trace_file=str(path))
        _record(model, asked, options, settings, output)
        report = _evaluate(path, layers, n_bytes or _expert_bytes(model, settings), output)
    _print(report, output, csv_mode=csv_mode)


def _check_options(
    prompts: str | None, trace: str | None, from_trace: str | None, *, csv_mode: bool, json_mode: bool
) -> None:
    if csv_mode and json_mode:
        raise InvalidRequest("--csv and --json exclude each other")
    if from_trace is not None and (prompts is not None or trace is not None):
        other = "--prompts" if prompts is not None else "--trace"
        raise InvalidRequest(f"{other} and --from-trace exclude each other", "--from-trace runs nothing")
    if prompts == STDIN and sys.stdin.isatty():
        raise InvalidRequest("standard input is a terminal", "pipe the prompts in, or name a file")


def _expert_bytes(model: str | None, settings: Settings) -> int | None:
    """Return what the model's experts weigh, where that is known already; refuse a dense model before it is loaded."""
    path = locate_model(model, settings)
    return None if path is None else expert_bytes_of(path)


def _prompts(file: str | None, options: ChatOptions) -> tuple[TracedPrompt, ...]:
    if file is None:
        return sample_prompts(options)
    if file != STDIN:
        return read_prompts(typed_path(file), options)
    with tempfile.NamedTemporaryFile(prefix="qwenctl-prompts-") as copy:
        shutil.copyfileobj(sys.stdin.buffer, copy)
        copy.flush()
        return read_prompts(Path(copy.name), options)


@contextmanager
def _trace_path(file: str | None) -> Iterator[Path]:
    """Return where the trace goes: FILE, or a place that is forgotten afterwards."""
    if file is not None:
        yield typed_path(file)
        return
    with tempfile.TemporaryDirectory(prefix="qwenctl-experts-") as folder:
        yield Path(folder) / "run.trace"


def _record(
    model: str | None, prompts: tuple[TracedPrompt, ...], options: EngineOptions, settings: Settings, output: Output
) -> None:
    n_computed = 0
    with (
        open_model(model, options, settings, output) as chat_model,
        output.progress("answering", len(prompts)) as bar,
    ):

        def show(n_done: int, n_tokens: int) -> None:
            nonlocal n_computed
            n_computed += n_tokens
            bar.update(n_done, f"{n_computed:,} tokens")

        run_prompts(chat_model, prompts, show)


def _evaluate(path: Path, layers: frozenset[int] | None, n_bytes: int | None, output: Output) -> ExpertReport:
    with output.progress("evaluating", len(FRACTIONS)) as bar:
        return report_on(path, layers=layers, expert_bytes=n_bytes, on_budget=bar.update)


def _print(report: ExpertReport, output: Output, *, csv_mode: bool) -> None:
    if output.json_mode:
        output.data(report_document(report))
    elif csv_mode:
        output.write(report_csv(report))
    else:
        show_report(report, output, max(_NARROWEST_COLUMNS, shutil.get_terminal_size().columns))
    if report.n_cut_bytes:
        output.warning(f"the trace ends in an incomplete record of {report.n_cut_bytes} bytes, which was left out")
    if report.n_tokens_needed:
        output.note(f"too few tokens to tell a collapsed router: {report.n_tokens_needed:,} would do")
