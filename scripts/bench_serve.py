"""`qwenctl serve` beside llama_cpp.server and llama.cpp's own server, from the same sources, on this machine.

    .venv/bin/python scripts/bench_serve.py                      both models; about 15 minutes
    .venv/bin/python scripts/bench_serve.py --quick              three rounds of shorter answers; about 5 minutes
    .venv/bin/python scripts/bench_serve.py --model demo --json

Per model all servers are open from the start and take turns, so that whatever else the machine does meets all; medians
over the rounds. Each request is a question that no cache knows, temperature 0; what counts are the tokens that were
generated, as each server counts them. Time to first token is held against a loop that does nothing but llama_decode,
`qwenctl batch` against our engine with all requests handed to it at once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import llama_cpp
from bench_batch import smollm2
from native_build.build import BuildFailedError
from serve_bench.llama_server import llama_server
from serve_bench.measure import Cell, asked, batch_rate, first_token, throughput
from serve_bench.python_server import NoPythonServerError, python_server
from serve_bench.report import findings, print_report
from serve_bench.servers import LLAMA_SERVER, OURS, PYTHON_SERVER, Running, ServerFailedError, Setting, running

from qwenctl.cli.first_demo import make_demo
from qwenctl.cli.output import Output
from qwenctl.services.bench.bench_prompts import questions
from qwenctl.services.calibration_key import cpu_name
from qwenctl.services.cpu_threads import default_n_threads
from qwenctl.settings import Settings

SERVERS = {"ours": OURS, "llama-server": LLAMA_SERVER, "llama_cpp.server": PYTHON_SERVER}
PROMPT_TOKENS = (60, 250, 800)


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def models(names: list[str]) -> dict[str, Path]:
    """Return the files to measure with, by name."""
    known = {"smollm2": smollm2, "demo": lambda: make_demo(Settings.from_environment(os.environ), Output())}
    found = {name: known[name]() if name in known else Path(name) for name in names}
    if missing := [str(path) for path in found.values() if not path.is_file()]:
        sys.exit(f"no file {missing[0]}")
    return found


def measure(setting: Setting, arguments: argparse.Namespace, limit_s: float) -> dict[str, Any]:
    """Return all that is measured of one model; no round begins after `limit_s`, but the first."""
    deadline_s = time.monotonic() + limit_s
    cells: list[Cell] = []
    first: list[dict[str, float]] = []
    batch: list[dict[str, float]] = []
    with ExitStack() as open_things:
        servers = [open_things.enter_context(running(SERVERS[name], setting)) for name in arguments.servers]
        ours = next((one for one in servers if one.name == OURS), None)
        for server in servers:
            throughput(server, 2, 8, 10_000, stream=True)  # nobody's first request counts
        for number in range(arguments.rounds):
            if number and time.monotonic() > deadline_s:
                say(f"  {number} rounds took the time there was")
                break
            say(f"  round {number + 1} of {arguments.rounds}")
            turn = servers[number % len(servers) :] + servers[: number % len(servers)]
            cells += _round(turn, arguments, 1000 * number)
        if ours:
            bare = open_things.enter_context(asked("bare", setting))
            bare.ask({"n_tokens": PROMPT_TOKENS[0]})
            sides = [ours, *(one for one in servers if one.name == LLAMA_SERVER)]
            for number in range(arguments.rounds * 2 + 1):
                first += [first_token(sides, bare, n_tokens, 77 * number + n_tokens) for n_tokens in PROMPT_TOKENS]
    say("  batch")
    of_eight = Setting(setting.model, 8, setting.n_ctx, setting.n_threads)
    with asked("engine", of_eight) as engine, asked("bare", of_eight) as bare:
        engine.ask({"prompts": questions(8, 5), "max_tokens": 8})
        for number in range(arguments.rounds):
            prompts = questions(48, number)
            rate = engine.ask({"prompts": prompts, "max_tokens": arguments.max_tokens})
            whole = batch_rate(of_eight, prompts, arguments.max_tokens)
            raw = bare.ask({"n_sequences": 8, "n_steps": 32})["tokens_per_s"]
            batch.append({"engine": rate["n_tokens"] / rate["s"], "batch": whole, "llama_decode": raw})
    return findings(cells, first, batch)


def _round(servers: list[Running], arguments: argparse.Namespace, seed: int) -> list[Cell]:
    cells = []
    for concurrency in arguments.concurrency:
        for stream in (False, True):
            seed += 1
            for server in servers:
                cell = throughput(server, concurrency, arguments.max_tokens, seed, stream=stream)
                if (load := cell.load).n_failed:
                    say(f"  {server.name}: {load.n_failed} of {load.n_requests} requests failed: {load.error}")
                cells.append(cell)
    return cells


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", action="append", help="smollm2, demo or a file; repeatable  [both]")
    parser.add_argument("--servers", type=lambda text: text.split(","), default=list(SERVERS), help=",".join(SERVERS))
    parser.add_argument("--concurrency", type=lambda text: [int(one) for one in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=default_n_threads())
    parser.add_argument("--quick", action="store_true", help="three rounds, answers of 32 tokens")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    limit_s = 3600.0
    if arguments.quick:
        arguments.rounds, arguments.max_tokens, limit_s = 3, 32, 80.0
    try:
        programs = {LLAMA_SERVER: str(llama_server()), PYTHON_SERVER: str(python_server())}
        results = {}
        for name, path in models(arguments.model or ["smollm2", "demo"]).items():
            say(f"{name}: {path.name}")
            setting = Setting(path, max(arguments.concurrency), 1024, arguments.threads)
            results[name] = measure(setting, arguments, limit_s)
    except (BuildFailedError, NoPythonServerError, ServerFailedError) as error:
        sys.exit(f"error: {error}")
    document = {
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "load": [round(one, 1) for one in os.getloadavg()]},
        "versions": {"python": platform.python_version(), "llama_cpp": llama_cpp.__version__, "programs": programs},
        "threads": arguments.threads,
        "max_tokens": arguments.max_tokens,
        "rounds": arguments.rounds,
        "models": results,
    }
    if arguments.json:
        print(json.dumps(document, indent=2))
    else:
        print_report(document)


if __name__ == "__main__":
    main()
