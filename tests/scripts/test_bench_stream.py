"""The bench of conversion while downloading, in small: two processes, kills, the bytes that the disk gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--layers", "1", "--experts", "8", "--vocab", "16384", "--shard-gb", "0.05"]  # 250 MB in five shards


@pytest.mark.slow
def test_killed_and_gone_on_with(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/bench_stream.py", *SMALL, "--kill", "5", "--work", str(tmp_path), "--json"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600)
    report = json.loads(run.stdout)
    assert report["same_bytes"]
    assert report["killed_same_bytes"]
    assert report["n_kills"] > 0
    assert report["peak_rss_bytes"] < 1 << 30
    assert report["peak_extra_disk_bytes"] < 64 << 20
    assert report["killed_peak_extra_disk_bytes"] < 64 << 20
    assert report["killed_fetched_again_bytes_per_kill"] <= (64 << 20) + 5 * (64 << 10)  # the window, and the headers
    assert [*tmp_path.iterdir()] == []
