"""Kill `qwenctl batch`'s work (SIGKILL) at 100 random points, in both orders, here and with a server: is anything lost?

    .venv/bin/python scripts/kill_batch.py                       100 kills each: demo model, and `qwenctl serve` with it
    .venv/bin/python scripts/kill_batch.py --kills 20 --json
    .venv/bin/python scripts/kill_batch.py --model model.gguf --only serve

Of each line: does the result have it once, and in its place; is a record that was finished at a kill still there as it
was; and was any line begun again that was finished before? The work is tests/services/killable_batch.py's, which opens
the model and calls the batch as the command does, and writes down what it begins; with a server, the server does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qwenctl.services.demo_conversion import convert_demo  # noqa: E402
from qwenctl.settings import Settings  # noqa: E402
from tests.services.batch_kills import BatchKiller, KillPlan, KillReport  # noqa: E402
from tests.services.fake_openai_server import FakeServer  # noqa: E402

ORDERS = ("finished", "input")


def demo() -> Path:
    """Return the demo's GGUF file, made if need be."""
    return convert_demo(Settings.from_environment(os.environ), lambda _: None)


@contextlib.contextmanager
def serve(model: Path) -> Iterator[str]:
    """Run `qwenctl serve` and yield its URL."""
    command = [sys.executable, "-m", "qwenctl", "serve", str(model), "--port", "0", "--json", "--ctx", "256"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


def kill_here(plan: KillPlan) -> KillReport:
    """Kill a batch with a model of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return BatchKiller(Path(folder), plan).run()


def kill_with_server(plan: KillPlan, model: Path) -> KillReport:
    """Kill a batch whose lines a `qwenctl serve` answers; what reaches it is counted on the way."""
    with serve(model) as url, FakeServer(upstream=url) as relay, tempfile.TemporaryDirectory() as folder:

        def begun() -> list[int]:
            return [int(prompt.split()[0]) for prompt in relay.prompts]

        return BatchKiller(Path(folder), replace(plan, engine="none", server=relay.url), begun).run()


def main() -> None:
    """Kill and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--model", type=Path, help="GGUF file; the demo without it")
    parser.add_argument("--only", choices=("here", "serve"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    model = arguments.model or demo()
    results = {}
    for where in ("here", "serve"):
        for order in ORDERS if arguments.only in (None, where) else ():
            plan, begun_s = KillPlan(arguments.kills, order, str(model)), time.monotonic()
            report = kill_here(plan) if where == "here" else kill_with_server(plan, model)
            results[f"{where}, order {order}"] = {
                "good": report.is_good,
                **asdict(report),
                "seconds": round(time.monotonic() - begun_s, 1),
            }
            if not arguments.json:
                words = f"{report.n_kills} kills, {report.n_lines} lines, {report.n_begun} begun"
                bad = f"{report.n_missing} missing, {report.n_twice} twice, {report.n_redone} finished and done again"
                journal = f"{report.n_in_journal} waited for their turn" if order == "input" else ""
                print(f"{where}, order {order}: {words}; {bad}, {report.n_changed} changed; {journal}", flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))
    sys.exit(not all(result["good"] for result in results.values()))


if __name__ == "__main__":
    main()
