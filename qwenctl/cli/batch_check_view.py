"""`qwenctl batch --check`: what a run would meet, as lines or as a document. Imported when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from quant.errors import QuantError
from qwenctl.cli.interrupt import InterruptWatch
from qwenctl.cli.output import Output
from qwenctl.errors import QwenctlError
from qwenctl.planning.placement import ContextRequest
from qwenctl.planning.speed import Speed
from qwenctl.services.batch_check import BatchCheck, check_batch
from qwenctl.services.batch_options import BatchOptions
from qwenctl.services.generation import ChatModel
from qwenctl.services.plan_source import find_source
from qwenctl.services.planner import Planner
from qwenctl.settings import Settings
from qwenctl.units import format_seconds


def check_and_show(
    model: ChatModel | None,
    paths: tuple[Path, Path],
    options: BatchOptions,
    served: Sequence[str],
    *,
    settings: Settings,
    output: Output,
) -> None:
    """Check the lines of the first path against the records of the second, and say what was found.

    Raises:
        InvalidRequest: some cannot be answered.
    """
    with output.progress("checking", 1) as bar, InterruptWatch() as watch:

        def show(n_done: int, n_total: int) -> None:
            watch.raise_if_requested()
            bar.update(n_done, total=n_total)

        found = check_batch(model, *paths, options, served, on_progress=show)
    speed = _speed(model, options, settings) if model else None
    seconds = found.seconds(speed.prefill.tokens_s, speed.decode.tokens_s) if speed else None
    if output.json_mode:
        output.data({**asdict(found), "seconds": None if seconds is None else round(seconds, 1)})
    else:
        output.fields(_fields(found, seconds))
        for problem in found.problems:
            output.error(f"line {problem.line} ({problem.custom_id}): {problem.message}")
    if (failure := found.failure()) is not None:
        raise failure


def _speed(model: ChatModel, options: BatchOptions, settings: Settings) -> Speed | None:
    """The rates that the planner expects; None where it knows none."""
    info = model.engine.info
    try:
        source = find_source(info.path, None, settings)
        request = ContextRequest(info.n_ctx, options.parallel)
        return Planner(source, settings).advise(None, None, request).plan.speed
    except (QwenctlError, QuantError):
        return None


def _fields(found: BatchCheck, seconds: float | None) -> list[tuple[str, object]]:
    fields: list[tuple[str, object]] = [("lines", f"{found.n_lines:,}"), ("bad", f"{found.n_bad:,}")]
    if found.n_answered:
        fields.append(("already there", f"{found.n_answered:,}"))
    fields += [(url, f"{count:,}") for url, count in found.by_url.items()]
    if found.n_prompt_tokens is not None:
        longest = f", the longest {found.longest_prompt:,}" if found.longest_prompt else ""
        fields.append(("prompt tokens", f"{found.n_prompt_tokens:,}{longest}"))
        fields.append(("answer tokens", f"{found.n_most_generated_tokens:,} at most"))
    if found.n_usual_generated_tokens is not None:
        fields.append(("as usual", f"{found.n_usual_generated_tokens:,} by the answers that are there"))
    if seconds is not None:
        kind = "at most" if found.n_usual_generated_tokens is None else "as usual"
        fields.append(("time", f"about {format_seconds(seconds)} {kind}, by the planner's estimate"))
    return fields
