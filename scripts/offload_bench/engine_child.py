"""qwenctl's engine, through the calls that its commands use. Runs in a child process: `measure(task, tell)`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from quant.gguf_read import read_gguf
from qwenctl.core import Finished, FinishReason, GenerationRequest, SamplingParams
from qwenctl.moe.expert_map import read_expert_map
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services.calibrate import calibrated
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.expert_offload import open_ggml

from .task import N_CTX, Result, Run, Task, own_read_bytes


def measure(task: Task, tell: Callable[[Mapping[str, Any]], None]) -> None:
    """Do the task's runs, and tell of each; without runs, measure this machine and keep that for later tasks."""
    if not task.runs:
        _calibrate(Path(task.path), task.n_threads, Path(task.calibration or ""))
        return
    started = time.perf_counter()
    with _calibration(task) as folder, Engine.open(Path(task.path), _options(task, folder)) as engine:
        tell({"kind": "opened", "load_s": time.perf_counter() - started})
        for number, run in enumerate(task.runs):
            tell({"kind": "run", **asdict(_measured(engine, run, str(number)))})


@contextmanager
def _calibration(task: Task) -> Iterator[Path | None]:
    """Yield a cache folder with a copy of the calibration: no run shall find the routing that another has left."""
    if task.calibration is None:
        yield None
        return
    with TemporaryDirectory(prefix="bench-offload-") as folder:
        shutil.copytree(task.calibration, folder, dirs_exist_ok=True)
        yield Path(folder)


def _calibrate(path: Path, n_threads: int, folder: Path) -> None:
    """Have this machine measured for the model, as its first run would; what is in `folder` already is kept."""
    import llama_cpp  # the libraries that are measured

    llama_cpp.llama_backend_init()
    experts = read_expert_map(read_gguf(path))
    if experts is not None:
        calibrated(experts, open_ggml(), folder, n_threads)


def _options(task: Task, folder: Path | None) -> EngineOptions:
    offload = OffloadOptions(**{"calibration_dir": folder} | dict(task.offload))
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
