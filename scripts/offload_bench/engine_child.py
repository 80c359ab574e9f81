"""qwenctl's engine, through the calls that its commands use. Runs in a child process: `measure(task, tell)`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from qwenctl.core import Finished, FinishReason, GenerationRequest, SamplingParams
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.engine import Engine, EngineOptions

from .task import N_CTX, Run, Task, own_read_bytes


def measure(task: Task, tell: Callable[[Mapping[str, Any]], None]) -> None:
    """Do the task's runs, and tell of each."""
    started = time.perf_counter()
    with Engine.open(Path(task.path), _options(task)) as engine:
        tell({"kind": "opened", "load_s": time.perf_counter() - started})
        for number, run in enumerate(task.runs):
            read_before = own_read_bytes()
            n_tokens, seconds = _measured(engine, run, str(number))
            stats = getattr(engine, "offload_stats", lambda: None)()
            tell({
                "kind": "run", "phase": run.phase, "state": run.state, "n_tokens": n_tokens, "seconds": seconds,
                "read_bytes": own_read_bytes() - read_before, "stats": stats,
            })  # fmt: skip


def _options(task: Task) -> EngineOptions:
    chosen: dict[str, Any] = {"n_ctx": N_CTX, "n_threads": task.n_threads, **task.settings}
    if task.offload and any(field.name == "offload" for field in fields(EngineOptions)):
        chosen["offload"] = OffloadOptions(**task.offload)
    return EngineOptions(**chosen)


def _measured(engine: Engine, run: Run, name: str) -> tuple[int, float]:
    """Return tokens and seconds: of the prompt until the first token, or of the tokens after the first."""
    request = GenerationRequest(name, run.prompt, SamplingParams(temperature=0), run.n_decoded or 1)
    finished = None
    for event in engine.generate(request):
        if isinstance(event, Finished):
            finished = event
    if finished is None or finished.reason not in (FinishReason.LENGTH, FinishReason.STOP):
        raise SystemExit(f"the engine ended with {finished}")
    if run.n_decoded:
        return finished.usage.n_generated_tokens - 1, finished.timing.decode_s
    return finished.usage.n_prompt_tokens - finished.usage.n_cached_tokens, finished.timing.prefill_s
