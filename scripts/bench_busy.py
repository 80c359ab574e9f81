#!/usr/bin/env python3
"""A model on a machine that does something else as well: qwenctl as it is, beside OpenMP's own way of waiting.

    scripts/bench_busy.py                          the demo, quiet and beside one busy process
    scripts/bench_busy.py MODEL --busy 0,1,2 --rounds 5 -- --ram 400MiB --offload on

What follows -- goes to `qwenctl bench run`. OpenMP's own way, GOMP_SPINCOUNT=300000, is what any program has that
leaves it alone, llama.cpp's among them. Each round runs both, one after the other; ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version

_WAYS = {"qwenctl": "", "OpenMP's own": "300000"}


def main() -> int:
    """Measure, and print a line for each number of busy processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a GGUF file; the demo if there is none")
    parser.add_argument("--busy", default="0,1", help="numbers of processes that do nothing but compute")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answer", type=int, default=64, help="tokens of an answer")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    chosen, passed = parser.parse_args(sys.argv[1:at]), sys.argv[at + 1 :]
    print(f"{platform.machine()}, {os.cpu_count()} cores, llama-cpp-python {version('llama-cpp-python')}")
    for n_busy in map(int, chosen.busy.split(",")):
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in _WAYS}
        with _busy(n_busy):
            for _ in range(chosen.rounds):
                for name, spins in _WAYS.items():
                    rates[name].append(_rates(chosen.model, chosen.answer, passed, spins))
        ours, theirs = (tuple(map(statistics.median, zip(*rates[name], strict=True))) for name in _WAYS)
        print(
            f"{n_busy} busy: prompt {ours[0]:.0f} / {theirs[0]:.0f} tokens/s = {ours[0] / theirs[0]:.2f}, "
            f"answer {ours[1]:.1f} / {theirs[1]:.1f} tokens/s = {ours[1] / theirs[1]:.2f}",
            flush=True,
        )
    return 0


@contextmanager
def _busy(n_processes: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def _rates(model: str | None, n_answer: int, passed: Sequence[str], spins: str) -> tuple[float, float]:
    """Return tokens/s of a prompt of 64 tokens and of an answer."""
    command = [sys.executable, "-m", "qwenctl", "bench", "run", *([model] if model else [])]
    command += ["--prompts", "64", "--answer", str(n_answer), "--rounds", "1", "--json", "-q", *passed]
    environ = {**os.environ, "GOMP_SPINCOUNT": spins, "OMP_WAIT_POLICY": ""}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip())
    row = json.loads(done.stdout)["rows"][0]
    return row["prefill_tokens_per_s"], row["decode_tokens_per_s"]


if __name__ == "__main__":
    sys.exit(main())
