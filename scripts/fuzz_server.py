#!/usr/bin/env python3
"""Hostile and malformed requests against `qwenctl serve`: it must live, and answer a good request after each block.

    scripts/fuzz_server.py                         10,000 requests against the demo
    scripts/fuzz_server.py MODEL --requests 500 --seed 7
    scripts/fuzz_server.py --json

A block is one kind of request, some dozens of them, eight at a time. Exit code 1: a server died, or a good request was
not answered.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from server_fuzz.hostile_bodies import BODIES
from server_fuzz.hostile_connections import CONNECTIONS, RARE, exchange, request
from server_fuzz.served import Served

BLOCK = 50


def main() -> None:
    """Run the blocks and show what came of them."""
    options = parsed()
    server = Served(options.model, "--parallel", "4", "--threads", "1", "--quiet")
    report: dict[str, Any] = {"kinds": {}, "n_requests": 0, "n_dead": 0, "n_good": 0, "n_good_answered": 0}
    try:
        warm = server.answers()
        report["before"] = server.resources() | {"good_s": warm}
        for name, n in planned(options.requests).items():
            run_kind(server, name, n, options.seed, report)
            if not server.is_alive:
                report["n_dead"] += 1
                report["killed_by"] = name
                break
        else:
            time.sleep(2)
            report["after"] = server.resources() | {"good_s": server.answers()}
            report["exit_code"] = server.end()
    finally:
        server.process.kill()
    report["log"] = server.log.read_text()[-3000:]
    show(report, as_json=options.json)
    is_well = not report["n_dead"] and report["n_good"] == report["n_good_answered"] and not report["exit_code"]
    sys.exit(0 if is_well else 1)


def parsed() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="default: the demo")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def planned(n_requests: int) -> dict[str, int]:
    """Return how many requests of each kind."""
    kinds = [*BODIES, *CONNECTIONS]
    shares = {name: RARE.get(name, 1.0) for name in kinds}
    unit = n_requests / sum(shares.values())
    counts = {name: max(1, round(unit * share)) for name, share in shares.items()}
    counts[kinds[0]] += n_requests - sum(counts.values())
    return counts


def run_kind(server: Served, name: str, n: int, seed: int, report: dict[str, Any]) -> None:
    """Send all requests of a kind, block by block, and note how they were answered."""
    statuses: Counter[str] = Counter()
    worst_s, began = 0.0, time.monotonic()
    call = caller(server, name)
    with ThreadPoolExecutor(8) as pool:
        for first in range(0, n, BLOCK):
            numbers = range(first, min(n, first + BLOCK))
            statuses.update(pool.map(lambda number: call(random.Random(f"{seed} {name} {number}")), numbers))
            report["n_requests"] += len(numbers)
            report["n_good"] += 1
            good_s = server.answers()
            if good_s is None:
                break
            report["n_good_answered"] += 1
            worst_s = max(worst_s, good_s)
    report["kinds"][name] = {
        "n": n,
        "statuses": dict(sorted(statuses.items())),
        "worst_good_s": round(worst_s, 2),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(f"{name}: {report['kinds'][name]}", file=sys.stderr, flush=True)


def caller(server: Served, name: str) -> Callable[[random.Random], str]:
    """Return what makes one request of a kind and says how it was answered."""

    def call(rng: random.Random) -> str:
        try:
            if name in BODIES:
                path, make = BODIES[name]
                found = exchange(server.port, request(make(rng), path, "POST", "Connection: close"), patience_s=120)
            else:
                found = CONNECTIONS[name](server.port, rng)
        except OSError as error:
            return type(error).__name__
        return found[9:12].decode("latin-1") if found.startswith(b"HTTP/1.1 ") else "closed"

    return call


def show(report: dict[str, Any], *, as_json: bool) -> None:
    """Print the figures."""
    if as_json:
        print(json.dumps(report))
        return
    for name, row in report["kinds"].items():
        answers = ", ".join(f"{n} × {status}" for status, n in row["statuses"].items())
        print(f"{name:26} {row['n']:6}   good after: {row['worst_good_s']:5.2f} s   {answers}")
    print(f"{report['n_requests']} hostile requests, {report['n_dead']} dead servers, good requests answered: "
          f"{report['n_good_answered']} of {report['n_good']}")  # fmt: skip
    for name in ("before", "after"):
        if found := report.get(name):
            mib = found["rss_bytes"] / 2**20
            print(f"{name:6} {mib:.0f} MiB, {found['n_threads']} threads, {found['n_descriptors']} descriptors")
    if report["log"]:
        print(report["log"])


if __name__ == "__main__":
    main()
