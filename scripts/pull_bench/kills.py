"""Downloads killed at random points by SIGKILL, started again and again until they are complete."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.hub_server.repository import HubRepository
from tests.hub_server.server import HubServer

from .shards import CHILD, add_shards, is_whole, kept_bytes, pinned, task_of

MIB = 1 << 20
_RATES = (4e6, 16e6, 64e6, None)  # bytes per second of each connection


@dataclass(frozen=True, slots=True)
class KillReport:
    """What the kills cost. `twice` is what was sent and had to be sent again, of each kill."""

    n_kills: int
    n_downloads: int
    n_right: int  # downloads that ended with the right bytes and nothing left over
    total_bytes: int  # of one download
    most_twice_bytes: int
    median_twice_bytes: int


def measure_kills(folder: Path, n_kills: int, *, n_shards: int = 4, shard_bytes: int = 48 * MIB) -> KillReport:
    """Kill `n_kills` processes and let every download end."""
    rng = random.Random(2026)
    twice: list[int] = []
    n_downloads = n_right = 0
    with HubServer() as hub:
        repository = add_shards(hub, n_shards, shard_bytes)
        while len(twice) < n_kills:
            hub.bytes_per_s = _RATES[n_downloads % len(_RATES)]
            target = folder / "killed"
            twice += _one_download(hub, repository, target, rng, n_kills - len(twice))
            n_downloads += 1
            n_right += is_whole(target, repository)
            shutil.rmtree(target)
        total = sum(remote.n_bytes for remote in pinned(hub, repository))
    twice.sort()
    return KillReport(n_kills, n_downloads, n_right, total, twice[-1], twice[len(twice) // 2])


def _one_download(hub: HubServer, repository: HubRepository, folder: Path, rng: random.Random, most: int) -> list[int]:
    """Start, kill, start …, until it is complete; return what each kill cost in bytes sent twice."""
    remotes = pinned(hub, repository)
    total = sum(remote.n_bytes for remote in remotes)
    seconds = total / (8 * hub.bytes_per_s) if hub.bytes_per_s else 0.4
    hub.served.clear()
    twice: list[int] = []
    while True:
        child = subprocess.Popen([sys.executable, CHILD], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert child.stdin is not None
        child.stdin.write(task_of(hub, remotes, folder))
        child.stdin.close()
        if len(twice) < most:
            _wait_for_bytes(hub, child)
            time.sleep(rng.random() * seconds * 0.4)
            if child.poll() is None:
                child.kill()
        if child.wait() == 0:
            return twice
        time.sleep(0.1)  # the hub's threads notice
        twice.append(hub.served.total() - kept_bytes(folder, remotes) - sum(twice))


def _wait_for_bytes(hub: HubServer, child: subprocess.Popen[str]) -> None:
    before = hub.served.total()
    while child.poll() is None and hub.served.total() == before:
        time.sleep(0.005)
