"""How fast a download is beside huggingface_hub's own, from a hub in another process on this machine.

Every run is a process of its own, and the two take turns. `cpu` is what it costs, `peak` its resident memory.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from qwenctl.services.hub.remote_file import RemoteFile
from tests.hub_server.remote_files import remote_files
from tests.hub_server.repository import HubRepository

CHILD = Path(__file__).resolve().parent / "child.py"
ROOT = Path(__file__).resolve().parent.parent.parent
_REPO = "bench/speed"


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """Medians over the runs of one way to download."""

    how: str
    what: str
    link: str
    n_runs: int
    mb_per_s: float
    cpu_s: float
    peak_bytes: int


def measure_throughput(folder: Path, n_runs: int, *, n_shards: int, shard_bytes: int) -> list[SpeedRow]:
    """Download shards, then one file, over a fast and over a limited link."""
    rows = []
    for n_files, n_bytes in ((n_shards, shard_bytes), (1, shard_bytes)):
        source = folder / "source"
        _write_shards(source, n_files, n_bytes)
        for rate in (None, 25e6):
            with _hub(source, rate) as endpoint:
                rows += _compare(folder, endpoint, source, rate, n_runs)
        shutil.rmtree(source)
    return rows


def _compare(folder: Path, endpoint: str, source: Path, rate: float | None, n_runs: int) -> list[SpeedRow]:
    repository = HubRepository(_REPO)
    repository.commit({path.name: path for path in sorted(source.iterdir())})
    remotes = remote_files(endpoint, repository)
    without = [replace(remote, sha256=None) for remote in remotes]
    ways = {
        "qwenctl": ("ours", remotes),
        "qwenctl, no hash": ("ours", without),
        "huggingface_hub": ("huggingface_hub", remotes),
    }
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for _ in range(n_runs):
        for name, (how, files) in ways.items():
            figures[name].append(_run(folder / "out", endpoint, how, files))
    total = sum(remote.n_bytes for remote in remotes)
    return [
        SpeedRow(
            name,
            f"{len(remotes)} x {remotes[0].n_bytes / 1e6:.0f} MB",
            f"{rate / 1e6:.0f} MB/s a connection" if rate else "loopback",
            n_runs,
            total / 1e6 / statistics.median(run["seconds"] for run in runs),
            statistics.median(run["cpu_s"] for run in runs),
            int(statistics.median(run["peak_bytes"] for run in runs)),
        )
        for name, runs in figures.items()
    ]


def _run(out: Path, endpoint: str, how: str, remotes: list[RemoteFile]) -> dict[str, float]:
    out.mkdir()
    files = [asdict(remote) for remote in remotes]
    task = {"how": how, "endpoint": endpoint, "folder": str(out), "n_connections": 8, "files": files}
    done = subprocess.run([sys.executable, CHILD], input=json.dumps(task), capture_output=True, text=True, check=True)
    shutil.rmtree(out)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _write_shards(folder: Path, n_shards: int, shard_bytes: int) -> None:
    folder.mkdir()
    rng = random.Random(3)
    for number in range(n_shards):
        with (folder / f"model-{number}.safetensors").open("wb") as file:
            for _ in range(shard_bytes >> 20):
                file.write(rng.randbytes(1 << 20))


@contextmanager
def _hub(source: Path, rate: float | None) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.hub_server", f"{_REPO}={source}"]
    command += ["--bytes-per-s", str(rate)] if rate else []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            assert process.stdin is not None
            process.stdin.close()
