"""qwenctl's engine, through the calls that its commands use. Runs in a child process: `measure(task, tell)`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qwenctl.core import Finished, FinishReason, GenerationRequest, SamplingParams
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.engine import Engine, EngineOptions

from .task import N_CTX, Result, Run, Task, own_read_bytes


def measure(task: Task, tell: Callable[[Mapping[str, Any]], None]) -> None:
    """Do the task's runs, and tell of each."""
    started = time.perf_counter()
    with Engine.open(Path(task.path), _options(task)) as engine:
        tell({"kind": "opened", "load_s": time.perf_counter() - started})
        for number, run in enumerate(task.runs):
            tell({"kind": "run", **asdict(_measured(engine, run, str(number)))})


def _options(task: Task) -> EngineOptions:
    offload = OffloadOptions(**task.offload)
    return EngineOptions(n_ctx=N_CTX, n_threads=task.n_threads, offload=offload, **task.settings)


def _measured(engine: Engine, run: Run, name: str) -> Result:
    """Compute the prompt, and decode if the run says so."""
    read_before = own_read_bytes()
    engine.submit(GenerationRequest(name, run.prompt, SamplingParams(temperature=0), run.n_decoded or 1))
    events = engine.step()  # the whole prompt: none is longer than EngineOptions.n_batch
    first_token_read = own_read_bytes()
    while engine.has_work:
        events += engine.step()
    (finished,) = (event for event in events if isinstance(event, Finished))
    if finished.reason not in (FinishReason.LENGTH, FinishReason.STOP):
        raise SystemExit(f"the engine ended with {finished.reason}: {finished.error}")
    usage, timing = finished.usage, finished.timing
    n_tokens, seconds = usage.n_prompt_tokens - usage.n_cached_tokens, timing.prefill_s
    if run.n_decoded:
        n_tokens, seconds = usage.n_generated_tokens - 1, timing.decode_s
    read = own_read_bytes() - (first_token_read if run.n_decoded else read_before)
    stats = engine.offload_stats()
    return Result(run.phase, run.state, n_tokens, seconds, read, timing.prefill_s, first_token_read, stats)
