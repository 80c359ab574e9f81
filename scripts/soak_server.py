#!/usr/bin/env python3
"""Many clients for a while against `qwenctl serve`: is an answer lost, does memory grow, is anything left behind?

    scripts/soak_server.py                                2,000 requests from 16 clients, one in twenty cancelled
    scripts/soak_server.py MODEL --requests 200 --clients 4
    scripts/soak_server.py --json

Memory, threads and descriptors are compared with what they were after a fifth as many requests: by then caches are
full. Exit code 1: an answer was lost or wrong, memory grew by more than 2 %, threads or descriptors are more.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from server_fuzz.served import Served

CANCELLED_SHARE = 0.05
MOST_DRIFT = 0.02
QUESTIONS = ("What is a river?", "Name three animals.", "Hello", "Why is the sky blue?", "Write a line about the sea.")


def main() -> None:
    """Warm up, soak, and show what came of it."""
    options = parsed()
    server = Served(options.model, "--parallel", str(options.parallel), "--queue", str(2 * options.clients), "--quiet")
    try:
        soak(server, options, range(options.requests // 5))
        before = settled(server)
        began = time.monotonic()
        outcomes = soak(server, options, range(options.requests // 5, options.requests // 5 + options.requests))
        seconds = time.monotonic() - began
        after = settled(server)
        code = server.end()
    finally:
        server.process.kill()
    report = {
        "n_requests": options.requests,
        "outcomes": dict(outcomes),
        "n_lost": options.requests - outcomes["answered"] - outcomes["cancelled"],
        "seconds": round(seconds, 1),
        "before": before,
        "after": after,
        "rss_drift": round(after["rss_bytes"] / before["rss_bytes"] - 1, 4),
        "exit_code": code,
        "log": server.log.read_text()[-3000:],
    }
    show(report, as_json=options.json)
    grew = any(after[name] > before[name] for name in ("n_threads", "n_descriptors"))
    sys.exit(1 if report["n_lost"] or report["rss_drift"] > MOST_DRIFT or grew or code else 0)


def parsed() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="default: the demo")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=24, help="most tokens of an answer")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def soak(server: Served, options: argparse.Namespace, numbers: range) -> Counter[str]:
    """Make the requests of these numbers; return how many were answered, cancelled, or anything else."""
    with ThreadPoolExecutor(options.clients) as pool:
        return Counter(pool.map(lambda number: one_request(server, number, options.tokens), numbers))


def one_request(server: Served, number: int, n_tokens: int) -> str:
    """Return "answered", "cancelled", or what went wrong."""
    rng = random.Random(number)
    cancels, streams = rng.random() < CANCELLED_SHARE, rng.random() < 0.5
    body = {
        "messages": [{"role": "user", "content": f"{rng.choice(QUESTIONS)} ({rng.randrange(50)})"}],
        "max_tokens": 10 * n_tokens if cancels else rng.randint(1, n_tokens),
        "stream": streams,
        "stream_options": {"include_usage": True},
        "seed": number,
    }
    connection = http.client.HTTPConnection(server.host, server.port, timeout=300)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        if cancels:
            if streams:
                connection.getresponse().read(200)
            else:
                time.sleep(rng.random() * 0.1)
            return "cancelled"
        response = connection.getresponse()
        content = response.read()
        return judged(response.status, content, streams=streams)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def judged(status: int, content: bytes, *, streams: bool) -> str:
    """Return "answered" for a whole answer."""
    if status != 200:
        return str(status)
    if not streams:
        return "answered" if json.loads(content)["choices"][0]["finish_reason"] in ("stop", "length") else "unfinished"
    if not content.endswith(b"data: [DONE]\n\n"):
        return "torn"
    last = json.loads(content.split(b"\n\n")[-3].removeprefix(b"data: "))
    return "answered" if last["usage"]["completion_tokens"] else "without usage"


def settled(server: Served) -> dict[str, int]:
    """Return what the server holds once it is quiet: connections and answers under way have ended."""
    found = server.resources()
    for _ in range(20):
        time.sleep(0.5)
        former, found = found, server.resources()
        if found == former:
            break
    return found


def show(report: dict[str, Any], *, as_json: bool) -> None:
    """Print the figures."""
    if as_json:
        print(json.dumps(report))
        return
    rate = report["n_requests"] / report["seconds"]
    outcomes = ", ".join(f"{n} {name}" for name, n in report["outcomes"].items())
    print(
        f"{report['n_requests']} requests in {report['seconds']} s ({rate:.1f}/s): {outcomes}; lost: {report['n_lost']}"
    )
    for name in ("before", "after"):
        found = report[name]
        mib = found["rss_bytes"] / 2**20
        print(f"{name:6} {mib:.1f} MiB, {found['n_threads']} threads, {found['n_descriptors']} descriptors")
    print(f"memory: {report['rss_drift']:+.2%}")
    if report["log"]:
        print(report["log"])


if __name__ == "__main__":
    main()
