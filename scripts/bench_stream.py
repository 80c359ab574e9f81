#!/usr/bin/env python3
"""Measure conversion while downloading, from a hub on loopback in another process: rate, memory, disk, kills.

    scripts/bench_stream.py                          a synthetic Qwen3-MoE of 6 GB in 13 shards, made and removed
    scripts/bench_stream.py --kill 20                the same, then once more with 20 kills at random moments
    scripts/bench_stream.py --layers 1 --kill 5      1.6 GB

The file is compared with what `qwenctl convert` makes of the same checkpoint on the disk. "Fetched" is what the hub has
sent, headers and what a kill cost included. Extra disk is everything in the output's folder beyond the output itself,
looked at twenty times a second; the small files of the checkpoint, copied beforehand, count.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for tests.hub_server

from quant.stream_run import StreamOptions  # noqa: E402
from qwenctl.services.conversion import convert  # noqa: E402
from qwenctl.services.hub.connections import ClientOptions  # noqa: E402
from qwenctl.services.hub.range_client import RangeClient  # noqa: E402
from qwenctl.services.hub.remote_file import RemoteFile  # noqa: E402
from qwenctl.services.machine_limits import peak_rss_bytes, usable_cores  # noqa: E402
from qwenctl.services.remote_checkpoint import HubShard, RemoteCheckpoint  # noqa: E402
from qwenctl.services.remote_conversion import convert_remote, plan_remote  # noqa: E402
from qwenctl.services.type_choice import TypeRequest  # noqa: E402
from tests.hub_server.server import HubServer  # noqa: E402

REPO = "Bench/Synthetic-MoE"


def serve(folder: Path, bytes_per_s: float | None) -> None:
    """Serve the folder until standard input ends; for each line there, say what was sent since the last."""
    with HubServer(bytes_per_s=bytes_per_s) as hub:
        repository = hub.add(REPO, {path.name: path for path in folder.iterdir()})
        commit = repository.refs["main"]
        files = {name: [len(blob.data), blob.sha256] for name, blob in repository.commits[commit].items()}
        print(json.dumps({"url": hub.url, "commit": commit, "files": files}), flush=True)
        for _ in sys.stdin:
            print(hub.served.total(), flush=True)
            hub.served.clear()


def pull(hub: dict[str, Any], out: Path, options: argparse.Namespace) -> None:
    """Convert from the hub, in the way of `qwenctl pull`; print the figures."""
    small = out.with_name(f".{out.name}.source")
    with RangeClient(ClientOptions(hub["url"])) as client:
        shards = {
            name: HubShard(
                client,
                RemoteFile(REPO, hub["commit"], name, f"{hub['url']}/{REPO}/resolve/{hub['commit']}/{name}", *found),
            )
            for name, found in hub["files"].items()
            if name.endswith(".safetensors")
        }
        started = time.monotonic()
        checkpoint = RemoteCheckpoint(REPO, hub["commit"], small, shards)
        planned = plan_remote(checkpoint, out, TypeRequest(options.type), measure=False)
        plan_s = time.monotonic() - started
        result = convert_remote(planned, out, StreamOptions(options.threads, options.connections))
    n_bytes = planned.n_bytes_to_fetch
    print(
        json.dumps(
            {
                "plan_s": plan_s,
                "seconds": result.seconds,
                "convert_s": result.n_weights / result.weights_per_s if result.weights_per_s else 0.0,
                "n_bytes_to_fetch": n_bytes,
                "n_weights_resumed": result.n_weights_resumed,
                "peak_rss_bytes": peak_rss_bytes(),
            }
        )
    )


class Hub:
    """The hub's process."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--serve", folder, "--bytes-per-s", options.bytes_per_s]
        self._process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.description = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def sent_bytes(self) -> int:
        """Bytes sent since the last call."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._line())

    def stop(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class DiskWatch:
    """The largest size that a folder has, while it is open."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.most_bytes = 0

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            self.most_bytes = max(self.most_bytes, held_bytes(self._folder))

    def __enter__(self) -> DiskWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def held_bytes(folder: Path) -> int:
    """Blocks of all files in a folder."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def start_pull(hub: Hub, out: Path, options: argparse.Namespace) -> subprocess.Popen[str]:
    """Start a conversion in a process of its own."""
    arguments = ["--pull", out, "--type", options.type, "--threads", options.threads]
    arguments += ["--connections", options.connections]
    command = [sys.executable, __file__, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(hub.description)
    process.stdin.close()
    return process


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a conversion; return its figures."""
    assert process.stdout is not None
    output = process.stdout.read()
    if process.wait():
        raise SystemExit(f"a conversion exited {process.returncode}")
    found: dict[str, Any] = json.loads(output)
    return found


def fresh_output(work: Path, folder: Path) -> Path:
    """Return OUT in an empty folder, the small files beside it."""
    out = work / "out" / "model.gguf"
    shutil.rmtree(out.parent, ignore_errors=True)
    small = out.with_name(f".{out.name}.source")
    small.mkdir(parents=True)
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, small / path.name)
    return out


def bench(folder: Path, work: Path, options: argparse.Namespace) -> dict[str, object]:
    """Convert from the disk, from the hub, and from the hub with kills; compare."""
    source_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    started = time.monotonic()
    convert(folder, work / "disk.gguf", options.type, n_threads=options.threads)
    disk_s = time.monotonic() - started
    expected = digest(work / "disk.gguf")
    out_bytes = (work / "disk.gguf").stat().st_size
    (work / "disk.gguf").unlink()
    print(f"from the disk: {disk_s:.1f} s, {out_bytes:,} bytes, {expected}", file=sys.stderr)
    hub = Hub(folder, options)
    try:
        out = fresh_output(work, folder)
        with DiskWatch(out.parent) as watch:
            whole = finish(start_pull(hub, out, options))
        report: dict[str, object] = {
            "type": options.type,
            "source_bytes": source_bytes,
            "output_bytes": out_bytes,
            "disk_convert_s": disk_s,
            "stream_convert_s": whole["seconds"],
            "stream_source_bytes_per_s": source_bytes / whole["convert_s"],
            "stream_plan_s": whole["plan_s"],
            "same_bytes": digest(out) == expected,
            "fetched_bytes": hub.sent_bytes(),
            "peak_extra_disk_bytes": watch.most_bytes - out_bytes,
            "peak_rss_bytes": whole["peak_rss_bytes"],
        }
        print(json.dumps(report), file=sys.stderr)
        return report | (kills(hub, fresh_output(work, folder), whole, expected, options) if options.kill else {})
    finally:
        hub.stop()


def kills(hub: Hub, out: Path, whole: dict[str, Any], expected: str, options: argparse.Namespace) -> dict[str, object]:
    """Kill one conversion again and again; let it finish; compare."""
    chance = random.Random(options.seed)
    whole_s = whole["plan_s"] + whole["seconds"]
    fetched, n_kills, peaks = [], 0, []
    with DiskWatch(out.parent) as watch:
        while n_kills < options.kill:
            process = start_pull(hub, out, options)
            try:
                process.wait(chance.uniform(0.3, 0.3 + 2 * whole_s / options.kill))
                break  # it was quicker
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            n_kills += 1
            fetched.append(hub.sent_bytes())
            print(f"kill {n_kills}: {fetched[-1]:,} bytes were sent", file=sys.stderr)
        if not out.exists():
            peaks.append(finish(start_pull(hub, out, options))["peak_rss_bytes"])
        fetched.append(hub.sent_bytes())
    needed = sum(
        n_bytes for name, (n_bytes, _) in json.loads(hub.description)["files"].items() if name.endswith("tensors")
    )
    return {
        "n_kills": n_kills,
        "killed_same_bytes": digest(out) == expected,
        "killed_fetched_bytes": sum(fetched),
        "killed_fetched_again_bytes_per_kill": (sum(fetched) - needed) / max(1, n_kills),
        "killed_peak_extra_disk_bytes": watch.most_bytes - out.stat().st_size,
        "killed_last_peak_rss_bytes": max(peaks, default=0),
    }


@contextmanager
def work_folder(options: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """Yield the checkpoint, as it lies in the hub's cache, and a folder for outputs; both are removed afterwards."""
    work = Path(tempfile.mkdtemp(prefix="bench-stream-", dir=options.work))
    try:
        folder = work / f"models--{REPO.replace('/', '--')}" / "snapshots" / ("0" * 40)
        shape = ["--shape", "30b", "--layers", options.layers, "--experts", options.experts, "--vocab", options.vocab]
        command = [sys.executable, ROOT / "scripts" / "make_synthetic_moe.py", *shape, "--shard-gb", options.shard_gb]
        subprocess.run([*map(str, command), folder], check=True, stderr=subprocess.DEVNULL)
        yield folder, work
    finally:
        shutil.rmtree(work)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--type", default="q4_k_m")
    parser.add_argument("--layers", type=int, default=4, help="of Qwen3-30B-A3B (default: 4, 6.2 GB)")
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--shard-gb", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--bytes-per-s", type=float, default=0.0, help="of each connection (default: no limit)")
    parser.add_argument("--kill", type=int, default=0, metavar="N", help="kill one more conversion N times")
    parser.add_argument("--seed", type=int, default=0, help="of the moments to kill at")
    parser.add_argument("--work", type=Path, help="folder for temporary files (default: the system's)")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pull", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.bytes_per_s or None)
        return
    if options.pull:
        pull(json.loads(sys.stdin.readline()), options.pull, options)
        return
    with work_folder(options) as (folder, work):
        report = bench(folder, work, options)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for name, value in report.items():
        print(f"{name:36} {value:,.2f}" if isinstance(value, float) else f"{name:36} {value}")


if __name__ == "__main__":
    main()
