"""The measurements: each server's rate under a load, its time to first token beside a bare loop's, and batch's rate."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwenctl.services.bench.bench_prompts import questions, text_of_tokens
from qwenctl.services.bench.http_load import Answered, run_load
from qwenctl.services.bench.load_summary import LoadRow, load_row
from qwenctl.settings import native_defaults

from .servers import OURS, PYTHON_SERVER, ROOT, Running, ServerFailedError, Setting

_MOST_FOR_ONE_AT_A_TIME = 8  # requests for a server whose rate does not depend on how many there are


@dataclass(frozen=True, slots=True)
class Cell:
    """One server under one load, once."""

    server: str
    stream: bool
    cpu_s: float  # of the server
    load: LoadRow


class Asked:
    """A process that answers questions in JSON (child.py)."""

    def __init__(self, kind: str, setting: Setting) -> None:
        words = [str(setting.model), str(setting.n_threads), str(setting.n_parallel), str(setting.n_ctx)]
        own = native_defaults(os.environ) if kind == "engine" else {}  # as the program has it
        environment = {**os.environ, **own, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serve_bench.child", kind, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True,
        )  # fmt: skip

    def ask(self, question: dict[str, Any]) -> dict[str, float]:
        """Return the answer.

        Raises:
            ServerFailedError: the process ended.
        """
        if self.process.stdin is None or self.process.stdout is None:
            raise ServerFailedError("no pipes")
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise ServerFailedError(f"the process for comparison ended with status {self.process.wait()}")
        return dict(json.loads(line))


@contextmanager
def asked(kind: str, setting: Setting) -> Iterator[Asked]:
    """Start such a process and end it."""
    child = Asked(kind, setting)
    try:
        yield child
    finally:
        child.process.kill()
        child.process.communicate()


def throughput(
    server: Running, concurrency: int, max_tokens: int, seed: int, *, stream: bool, per_client: int = 3
) -> Cell:
    """Measure one cell; the same seed gives the same prompts."""
    n_requests = max(3, concurrency * per_client)
    if server.name == PYTHON_SERVER:
        n_requests = min(n_requests, _MOST_FOR_ONE_AT_A_TIME)
    prompts = questions(n_requests, seed)
    cpu_s, started_s = server.cpu_s(), time.perf_counter()
    answers = asyncio.run(run_load(server.target, prompts, concurrency, max_tokens, stream=stream))
    wall_s = time.perf_counter() - started_s
    return Cell(server.name, stream, server.cpu_s() - cpu_s, load_row(concurrency, answers, wall_s))


def first_token(servers: Sequence[Running], bare: Asked, n_tokens: int, seed: int) -> dict[str, float]:
    """Return the seconds to the first token of a prompt of about `n_tokens`: of each server, by name, and a bare loop.

    The first of `servers` says how many tokens the prompt has.
    """
    words = text_of_tokens(n_tokens, lambda text: len(text) // 2, seed)  # a few too many
    answers = {server.name: _alone(server, f"{words}\n\nWrite a long story.") for server in servers}
    n_prompt_tokens = answers[servers[0].name].n_prompt_tokens
    bare_s = bare.ask({"n_tokens": n_prompt_tokens})["s"]
    return {"n_tokens": n_prompt_tokens, "bare": bare_s} | {
        name: answer.first_text_s or 0.0 for name, answer in answers.items()
    }


def _alone(server: Running, prompt: str) -> Answered:
    (answer,) = asyncio.run(run_load(server.target, [prompt], 1, 8, stream=True))
    if answer.error or answer.first_text_s is None:
        raise ServerFailedError(f"{server.name}: {answer.error or 'no text came'}")
    return answer


def batch_rate(setting: Setting, prompts: Sequence[str], max_tokens: int) -> float:
    """Return the generated tokens per second of `qwenctl batch`, by its own clock, which starts with a loaded model."""
    with tempfile.TemporaryDirectory(prefix="qwenctl-bench-") as folder:
        lines = Path(folder) / "in.jsonl"
        lines.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "qwenctl", "batch", str(setting.model), str(lines), "-o", f"{folder}/out.jsonl"),
            *("--parallel", str(setting.n_parallel), "--ctx", str(setting.n_ctx), "--threads", str(setting.n_threads)),
            *("--max-tokens", str(max_tokens), "--temp", "0", "--json", "--quiet"),
        ]
        run = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
        )
        if run.returncode != 0:
            raise ServerFailedError(f"{OURS.split()[0]} batch: {run.stderr.strip()}")
        return float(json.loads(run.stdout)["tokens_per_s"])
