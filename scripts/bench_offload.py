#!/usr/bin/env python3
"""Models that do not fit: qwenctl beside stock llama.cpp, both under the same limit on memory.

    scripts/bench_offload.py --quick            30B shape, one round, in about three minutes
    scripts/bench_offload.py                    30B and 235B shapes, three rounds, cold and warm: an hour or more
    scripts/bench_offload.py --only stock --memory 0.25 --phases decode
    scripts/bench_offload.py --quick --layers 48 --memory 1 --vram 8            with 8 GiB of a GPU, for both
    scripts/bench_offload.py --set n_ubatch=1024 --offload prefetch="'off'"      other EngineOptions, OffloadOptions

Random weights at true layer shapes and fewer layers (see offload_bench/synthetic_model.py); written once, then kept
in --work. Every measurement is a child process in a control group of its own, which counts the page cache, too; the
file is dropped from the cache before. The two engines take turns. Prompts are real text, another part for each run;
decoding is greedy. cold: the first run of its process; warm: the next one. A run of stock llama.cpp ends after --max-s;
its rate is then of less. qwenctl has measured this machine once before, as a user's first run does, and remembers no
routing from child to child.

--quick: in one process 48 tokens, for qwenctl after 16 to warm up, 512 tokens of prompt, 2,048 tokens. Stock llama.cpp
stops decoding after some seconds, does not repack at 100 %, and its 512 tokens are the first ones of the 2,048.

Needs root, for the limit on memory.
"""

from __future__ import annotations

import argparse
import ast
import ctypes
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from offload_bench.child import run_child, serve
from offload_bench.memory_limit import disk_bytes_per_s, empty_cache
from offload_bench.placements import LIMIT_FORMULA, ModelSizes, stock_settings
from offload_bench.prompts import Prompts, text_tokens
from offload_bench.routing_facts import PUBLISHED, routing_facts
from offload_bench.rows import OURS, Measurements, table
from offload_bench.stock_settings import StockSettings
from offload_bench.synthetic_model import N_LAYERS, SyntheticModel, ensure_model
from offload_bench.task import N_DECODED, PHASES, PROMPT_TOKENS, Phase, Run, Task

from quant.gguf_read import read_gguf
from quant.libggml import load_libggml
from qwenctl.services.calibration_key import cpu_name
from qwenctl.services.cpu_threads import default_n_threads

REPOSITORY = Path(__file__).resolve().parents[1]
DISK_PROBE_BYTES = 512 << 20
QUICK_RUNS: tuple[tuple[Phase, str, int], ...] = (  # phase, state, tokens decoded
    ("decode", "cold", 16),
    ("decode", "warm", 48),
    ("prefill_512", "warm", 0),
    ("prefill_2048", "warm", 0),
)
QUICK_STOCK_DECODE_S = 3.0


def say(text: str) -> None:
    """Tell the user what goes on."""
    print(text, file=sys.stderr, flush=True)


def model_sizes(path: Path) -> ModelSizes:
    """Return what the limit and the placements are computed from."""
    gguf = read_gguf(path)
    n_bytes = {name: tensor.n_bytes for name, tensor in gguf.tensors.items()}
    experts = sum(size for name, size in n_bytes.items() if "_exps." in name)
    architecture = gguf.metadata["general.architecture"]
    n_layers, n_used = (int(gguf.metadata[f"{architecture}.{key}"]) for key in ("block_count", "expert_used_count"))
    return ModelSizes(n_layers, n_used, sum(n_bytes.values()) - experts, experts)


def gpu_free_bytes() -> list[int]:
    """Return the free memory of each device of type GPU that llama.cpp sees."""
    import llama_cpp

    library = llama_cpp.llama_cpp._lib
    library.ggml_backend_dev_get.restype = ctypes.c_void_p
    library.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    library.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    found = []
    for number in range(library.ggml_backend_dev_count()):
        device = library.ggml_backend_dev_get(number)
        if library.ggml_backend_dev_type(device) == 1:  # enum ggml_backend_dev_type: GPU
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            library.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
            found.append(free.value)
    return found


def machine() -> dict[str, Any]:
    """Return what the figures hold for."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    ggml = load_libggml()
    return {
        "cpu": cpu_name(),
        "amx": "amx_int8" in flags,
        "cores": os.cpu_count(),
        "read_ahead_kb": sorted({int(path.read_text()) for path in Path("/sys/block").glob("*/queue/read_ahead_kb")}),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "llama_cpp_python": version("llama-cpp-python"),
        "ggml": f"{ggml.version} ({ggml.commit})",
        "qwenctl": version("qwenctl"),
    }


class Bench:
    """One file at several memory limits."""

    def __init__(self, options: argparse.Namespace, shape: str, path: Path) -> None:
        self.options = options
        self.shape = shape
        self.path = path
        self.sizes = model_sizes(path)
        self.gpus = gpu_free_bytes()
        if options.vram is not None and self.gpus:
            self.gpus = [min(sum(self.gpus), int(options.vram * (1 << 30)))]
        self.prompts = Prompts(text_tokens(path, REPOSITORY))
        self.measured = Measurements(self.sizes.n_experts_used)
        self.calibration = options.work / "calibration"
        self._calibrate()
        outside = self.sizes.dense_bytes / 1e9
        say(f"{path.name}: {path.stat().st_size / 1e9:.2f} GB, {outside:.2f} of them outside the experts")

    def _calibrate(self) -> None:
        """Have this machine measured as qwenctl does when it first meets a model; what is known already stays."""
        task = Task("qwenctl", str(self.path), (), self.options.threads, calibration=str(self.calibration))
        report = run_child(task, self.sizes.limit_bytes(1.0), self.options.timeout)
        if report.error:
            raise SystemExit(f"calibration: {report.error}")

    def run(self) -> None:
        """Measure everything."""
        for memory_fraction in self.options.memory:
            limit = self.sizes.limit_bytes(memory_fraction)
            disk = disk_bytes_per_s(self.path, DISK_PROBE_BYTES)
            self.measured.disk_bytes_per_s = max(disk, self.measured.disk_bytes_per_s)  # alone, it reads so fast
            say(f"memory for {memory_fraction:.0%} of the experts: {limit / 1e9:.2f} GB; disk: {disk / 1e9:.2f} GB/s")
            for number in range(self.options.rounds):
                for runs in self._groups():
                    turns = list(self._turns(memory_fraction, runs[-1].phase))
                    for who, settings in turns if number % 2 == 0 else turns[::-1]:
                        self._measure(memory_fraction, limit, who, settings, runs)

    def _groups(self) -> Iterator[tuple[Run, ...]]:
        """Yield the runs of one child after another: each phase cold and warm, or, if quick, all phases in one."""
        chosen: Sequence[Phase] = self.options.phases
        if self.options.quick:
            max_s = self.options.max_s
            yield tuple(self._run(*run, max_s) for run in QUICK_RUNS if run[0] in chosen)
            return
        for phase in chosen:
            n_decoded = N_DECODED if phase == "decode" else 0
            yield tuple(self._run(phase, state, n_decoded, self.options.max_s) for state in ("cold", "warm"))

    def _run(self, phase: Phase, state: str, n_decoded: int, max_s: float) -> Run:
        return Run(phase, state, self.prompts.take(PROMPT_TOKENS[phase]), n_decoded, max_s)

    def _quick_for_stock(self, runs: tuple[Run, ...]) -> tuple[Run, ...]:
        """Return what stock llama.cpp is spared of: the warming up, a prompt that is the beginning of another."""
        phases = {run.phase for run in runs}
        tells_512 = {"prefill_512", "prefill_2048"} <= phases
        return tuple(
            replace(run, max_s=QUICK_STOCK_DECODE_S) if run.n_decoded else replace(run, tells_512=tells_512)
            for run in runs
            if run.state == "warm" and not (run.phase == "prefill_512" and tells_512)
        )

    def _turns(self, memory_fraction: float, phase: Phase) -> Iterator[tuple[str, StockSettings | None]]:
        """Yield who is measured: every setting of stock, and ours."""
        if self.options.only in (None, "stock"):
            tried = stock_settings(self.sizes, memory_fraction, phase, self.gpus)
            for settings in tried[:1] if self.options.quick else tried:
                yield settings.name, settings
        if self.options.only in (None, "qwenctl"):
            yield OURS, None

    def _measure(
        self, memory_fraction: float, limit: int, who: str, settings: StockSettings | None, runs: tuple[Run, ...]
    ) -> None:
        if settings and self.options.quick:
            runs = self._quick_for_stock(runs)
        task = Task(
            engine="stock" if settings else "qwenctl",
            path=str(self.path),
            runs=runs,
            n_threads=self.options.threads,
            settings=asdict(settings) if settings else self.options.set,
            offload={} if settings else self.options.offload,
            calibration=None if settings else str(self.calibration),
        )
        stayed = empty_cache(self.path)
        if stayed > 0.01 * self.path.stat().st_size:
            say(f"warning: {stayed / 1e9:.2f} GB of the file stay in memory, another process maps it: not limited")
        report = run_child(task, limit, self.options.timeout)
        is_tuned = settings is not None and settings.is_tuned
        self.measured.add(self.shape, memory_fraction, who, report, is_tuned=is_tuned)
        figures = ", ".join(f"{one.phase} {one.state} {one.tokens_per_s:.2f}" for one in report.results)
        if who == OURS and report.results and report.results[0].stats:
            say(f"  placement: {report.results[0].stats.get('placement')}")
        opened = "not opened" if report.load_s is None else f"opened in {report.load_s:.1f} s"
        say(f"  {who}: {opened}; tokens/s: {figures or 'none'}{f'; {report.error}' if report.error else ''}")


def show_routing(path: Path, threads: int) -> None:
    """Print how tokens are routed, beside published figures."""
    from qwenctl.core import GenerationRequest, SamplingParams
    from qwenctl.services.engine import Engine, EngineOptions

    with tempfile.TemporaryDirectory(prefix="bench-offload-") as folder:
        trace = Path(folder, "trace")
        prompt = Prompts(text_tokens(path, REPOSITORY)).take(PROMPT_TOKENS["decode"])
        with Engine.open(path, EngineOptions(n_ctx=1024, n_threads=threads, trace_file=str(trace))) as engine:
            for _ in engine.generate(GenerationRequest("routing", prompt, SamplingParams(temperature=0), N_DECODED)):
                pass
        for name, value in routing_facts(trace).items():
            published = f"   published for Qwen3-30B-A3B: {PUBLISHED[name]:g}" if name in PUBLISHED else ""
            say(f"  {name:28} {value:6.2f}{published}")


def assignments(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE, the value a Python literal."""
    name, _, value = text.partition("=")
    return name, ast.literal_eval(value)


def parse() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of the 30B shape, all phases in one process")
    parser.add_argument("--shape", choices=N_LAYERS, action="append", help="default: all; with --quick 30b")
    parser.add_argument("--layers", type=int, help="of the model file (default: 12 of 30b, 4 of 235b)")
    parser.add_argument("--alignment", type=int, default=4096, help="of its tensors in bytes (default: 4096)")
    parser.add_argument("--memory", type=float, nargs="+", default=[1.0, 0.5, 0.25], help="fractions of the experts")
    parser.add_argument("--vram", type=float, metavar="GIB", help="of the GPUs in all (default: what is free)")
    parser.add_argument("--phases", choices=PHASES, nargs="+", default=list(PHASES))
    parser.add_argument("--rounds", type=int, help="default: 3; with --quick 1")
    parser.add_argument("--only", choices=("stock", "qwenctl"), help="measure one of the two")
    parser.add_argument("--threads", type=int, default=default_n_threads())
    parser.add_argument("--max-s", type=float, default=60.0, help="a run of stock ends after this (default: 60)")
    parser.add_argument("--timeout", type=float, default=900.0, help="a child is killed after this (default: 900)")
    parser.add_argument("--set", type=assignments, nargs="+", default=[], metavar="NAME=VALUE", help="EngineOptions")
    parser.add_argument(
        "--offload", type=assignments, nargs="+", default=[], metavar="NAME=VALUE", help="OffloadOptions"
    )
    parser.add_argument("--routing", action="store_true", help="show how the model routes tokens, and end")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "qwenctl-bench-offload"))
    parser.add_argument("--json", action="store_true", help="rows as a JSON array on standard output")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.set, options.offload = dict(options.set), dict(options.offload)
    if options.vram is not None:
        options.offload["vram_bytes"] = int(options.vram * (1 << 30))
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.shape = options.shape or (["30b"] if options.quick else list(N_LAYERS))
    return options


def main() -> None:
    """Measure and print."""
    options = parse()
    if options.child:
        serve(options.child)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # not without ending the child and its control group
    for name, value in machine().items():
        say(f"{name:18} {value}")
    say(f"{'threads':18} {options.threads}\n{LIMIT_FORMULA}")
    rows: list[dict[str, Any]] = []
    errors: list[str] = []
    for shape in options.shape:
        model = SyntheticModel(shape, options.layers or N_LAYERS[shape], options.alignment)
        path = ensure_model(model, options.work)
        if options.routing:
            show_routing(path, options.threads)
            continue
        bench = Bench(options, shape, path)
        bench.run()
        rows += bench.measured.rows()
        errors += bench.measured.errors
    if rows:
        print(table(rows), file=sys.stderr if options.json else sys.stdout)
    for error in errors:
        say(f"not measured: {error}")
    if options.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
