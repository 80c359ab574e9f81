#!/usr/bin/env python3
"""What downloads survive and how fast they are, against the hub of the tests on loopback.

    scripts/bench_pull.py                    200 kills, 1,000 corruptions, 20 full disks, throughput; minutes
    scripts/bench_pull.py --only speed

kills        SIGKILL at random points of `qwenctl pull` of four parts; `twice` is what the hub had to send again
corruptions  damage on the way and on the disk; `again` is what was fetched beyond what was missing
full disk    the disk becomes full at one operation after another; the same call goes on when there is space
speed        beside huggingface_hub's snapshot_download, 8 connections each; medians
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pull_bench.corruptions import CorruptionRow, measure_corruptions  # noqa: E402
from pull_bench.full_disk import measure_full_disks  # noqa: E402
from pull_bench.kills import measure_kills  # noqa: E402
from pull_bench.throughput import SpeedRow, measure_throughput  # noqa: E402

PARTS = ("kills", "corruptions", "disk", "speed")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--corruptions", type=int, default=1000)
    parser.add_argument("--full-disks", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5, help="of each way to download")
    parser.add_argument("--work", type=Path, help="folder for what is downloaded")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    report: dict[str, object] = {"machine": machine()}
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        folder = Path(name)
        for part in arguments.only or PARTS:
            report[part] = measure(part, folder, arguments)
            if not arguments.json:
                show(part, report[part])
    if arguments.json:
        print(json.dumps(report, indent=2, default=asdict))


def machine() -> dict[str, object]:
    """Return where and with what."""
    packages = ("urllib3", "huggingface_hub", "httpx2", "hf-xet")
    return {
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    } | {name: version(name) for name in packages}


def measure(part: str, folder: Path, arguments: argparse.Namespace) -> object:
    """Return the figures of one part."""
    if part == "kills":
        return measure_kills(folder, arguments.kills)
    if part == "corruptions":
        on_the_way = arguments.corruptions * 5 // 8 // 8
        return measure_corruptions(folder, on_the_way, (arguments.corruptions - 8 * on_the_way + 4) // 5)
    if part == "disk":
        return measure_full_disks(folder, arguments.full_disks)
    return measure_throughput(folder, arguments.runs, n_shards=4, shard_bytes=128 << 20)


def show(part: str, found: object) -> None:
    """Print one part as text."""
    print(f"\n{part}: {machine()}")
    if not isinstance(found, list):
        print("  " + ", ".join(f"{name} {value:,}" for name, value in asdict(found).items()))  # type: ignore[call-overload]
        return
    for row in found:
        if isinstance(row, CorruptionRow):
            print(
                f"  {row.where:11} {row.kind:14} {row.n_detected:4} of {row.n_tried:4} detected, {row.n_right:4} right,"
                f" again: median {row.median_again_bytes / 2**20:6.2f} MiB, most {row.most_again_bytes / 2**20:6.2f}"
            )
        elif isinstance(row, SpeedRow):
            print(
                f"  {row.what:14} {row.link:22} {row.how:18} {row.mb_per_s:8.1f} MB/s  "
                f"{row.cpu_s:6.2f} s CPU  {row.peak_bytes / 2**20:6.0f} MiB peak  ({row.n_runs} runs)"
            )


if __name__ == "__main__":
    main()
