"""What a child process is to measure, and what it says of it: values that go through a pipe as JSON lines.

    task    one engine, one file, a list of runs; on the command line of the child, as a path to a JSON file
    lines   {"kind": "opened", …} once, {"kind": "run", …} for each run, as they end: a child that is killed has told
            of the runs before

Knows nothing of engines, limits and tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Phase = Literal["prefill_512", "prefill_2048", "decode"]
PHASES: tuple[Phase, ...] = ("prefill_512", "prefill_2048", "decode")
PROMPT_TOKENS: Mapping[Phase, int] = {"prefill_512": 512, "prefill_2048": 2048, "decode": 64}
N_DECODED = 128
N_CTX = 2304  # 2,048 tokens and room for an answer, in whole multiples of 256


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement. `max_s` ends it early with stock llama.cpp, between micro-batches or tokens.

    `tells_512`: stock llama.cpp also tells of the prompt's first 512 tokens, which it computes alone, as prefill_512.
    """

    phase: Phase
    state: str  # "cold": the first of its process, nothing of the file in memory; "warm": after others
    prompt: tuple[int, ...]  # tokens
    n_decoded: int = 0
    max_s: float = 600.0
    tells_512: bool = False


@dataclass(frozen=True, slots=True)
class Task:
    """All that one child does."""

    engine: Literal["stock", "qwenctl"]
    path: str
    runs: tuple[Run, ...]
    n_threads: int
    settings: Mapping[str, Any] = field(default_factory=dict)  # of stock: StockSettings; of ours: EngineOptions
    offload: Mapping[str, Any] = field(default_factory=dict)  # of ours: OffloadOptions
    calibration: str | None = None  # of ours: a cache folder with what was measured of this machine before

    def as_json(self) -> str:
        """Return the text that `task_from_json` reads."""
        return json.dumps(asdict(self))


def task_from_json(text: str) -> Task:
    """Return the task that `as_json` wrote."""
    fields = json.loads(text)
    runs = tuple(Run(**{**run, "prompt": tuple(run["prompt"])}) for run in fields.pop("runs"))
    return Task(**fields, runs=runs)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run."""

    phase: Phase
    state: str
    n_tokens: int  # of the prompt, or decoded ones after the first
    seconds: float
    read_bytes: int  # from disk, by this process, for these tokens
    first_token_s: float = 0.0  # from the run's beginning
    first_token_read_bytes: int = 0  # from disk, by this process, since it began
    stats: Mapping[str, Any] | None = None  # the scheduler's, since the process began

    @property
    def tokens_per_s(self) -> float:
        """The rate; 0 where nothing was finished."""
        return self.n_tokens / self.seconds if self.seconds and self.n_tokens else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """All that a child said; `error` is None if it came to its end."""

    load_s: float | None
    results: tuple[Result, ...]
    error: str | None = None

    def of(self, phase: Phase, state: str) -> Result | None:
        """Return the first result of this phase and state, if there is one."""
        return next((one for one in self.results if (one.phase, one.state) == (phase, state)), None)


def report_from_lines(lines: Sequence[str], error: str | None) -> Report:
    """Return what the child printed; lines that are not JSON objects are not its own."""
    load_s, results = None, []
    for line in lines:
        if not line.startswith("{"):
            continue
        fields = json.loads(line)
        kind = fields.pop("kind")
        if kind == "opened":
            load_s = fields["load_s"]
        else:
            results.append(Result(**fields))
    return Report(load_s, tuple(results), error)


def own_read_bytes() -> int:
    """Return what this process has had read from disk so far, page faults included (proc(5), io); 0 elsewhere."""
    try:
        with Path("/proc/self/io").open(encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))
    except (OSError, StopIteration):
        return 0
