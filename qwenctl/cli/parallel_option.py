"""`--parallel N|auto`, and what auto comes to for a model on this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from quant.errors import GgufError
from qwenctl.cli.output import Output
from qwenctl.services.demo_file import converted_demo
from qwenctl.services.engine_options import MAX_PARALLEL, EngineOptions, Purpose, StepTimesOptions
from qwenctl.services.model_store import locate_model
from qwenctl.services.parallel_choice import parallel_for
from qwenctl.settings import Settings

_USUAL = 8  # where the file or its devices cannot be looked at yet


class ParallelCount(click.ParamType[int]):
    """Sequences at the same time, or auto, which is None."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, None for auto."""
        if str(value).strip().lower() == "auto":
            return None
        return click.IntRange(1, MAX_PARALLEL).convert(value, param, ctx)


def with_parallel(
    engine: EngineOptions,
    parallel: int | None,
    model: str | None,
    purpose: Purpose,
    *,
    settings: Settings,
    output: Output,
) -> EngineOptions:
    """Return `engine` with `parallel` sequences; None: as many as suit MODEL and this machine, which is said.

    What its steps take is kept for the next time, also where the number was given.

    Raises:
        ModelNotFound: no such model.
        InvalidRequest: a device that was named is not there.
    """
    engine = replace(engine, step_times=StepTimesOptions(settings.cache_dir))
    if parallel is not None:
        return replace(engine, n_parallel=parallel)
    path = locate_model(model, settings) or converted_demo(settings)
    if path is None or engine.rpc:
        return replace(engine, n_parallel=_USUAL)
    try:
        choice = parallel_for(path, engine, purpose)
    except (GgufError, OSError):  # whoever opens it says what is wrong
        return replace(engine, n_parallel=_USUAL)
    output.note(choice.reason)
    step_times = StepTimesOptions(settings.cache_dir, purpose)
    return replace(engine, n_parallel=choice.n_parallel, n_ctx=choice.n_ctx, step_times=step_times)
