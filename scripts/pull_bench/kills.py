"""Pulls killed at random points by SIGKILL, started again and again until they are complete.

The process that is killed is `qwenctl pull` of a GGUF in several parts, over 8 connections; huggingface_hub lists them.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from qwenctl.services.hub.remote_file import RemoteFile
from tests.hub_server.remote_files import remote_files
from tests.hub_server.server import HubServer

from .shards import kept_bytes

ROOT = Path(__file__).resolve().parent.parent.parent
MIB = 1 << 20
_RATES = (4e6, 16e6, 64e6, None)  # bytes per second of each connection
_REPO = "bench/killed-GGUF"


@dataclass(frozen=True, slots=True)
class KillReport:
    """What the kills cost. `twice` is what the hub had sent and had to send again, of each kill."""

    n_kills: int
    n_pulls: int
    n_right: int  # pulls that ended with the right bytes and nothing left over
    total_bytes: int  # of one pull
    most_twice_bytes: int
    median_twice_bytes: int


def measure_kills(folder: Path, n_kills: int, *, n_parts: int = 4, part_bytes: int = 48 * MIB) -> KillReport:
    """Kill `n_kills` processes and let every pull end."""
    rng = random.Random(2026)
    names = [f"killed-q4_k_m-{number + 1:05}-of-{n_parts:05}.gguf" for number in range(n_parts)]
    twice: list[int] = []
    n_pulls = n_right = 0
    with HubServer() as hub:
        repository = hub.add(_REPO, {name: rng.randbytes(part_bytes + 777) for name in names})
        remotes = remote_files(hub.url, repository)
        while len(twice) < n_kills:
            hub.bytes_per_s = _RATES[n_pulls % len(_RATES)]
            pull = _Pull(hub, folder / "killed", remotes)
            twice += pull.until_complete(rng, n_kills - len(twice))
            n_pulls += 1
            n_right += pull.is_right()
            shutil.rmtree(pull.folder)
    twice.sort()
    total = sum(remote.n_bytes for remote in remotes)
    return KillReport(len(twice), n_pulls, n_right, total, twice[-1], twice[len(twice) // 2])


@dataclass(frozen=True, slots=True)
class _Pull:
    hub: HubServer
    folder: Path
    remotes: list[RemoteFile]

    def until_complete(self, rng: random.Random, most_kills: int) -> list[int]:
        """Start, kill, start …; return what each kill cost."""
        self.folder.mkdir()
        self.hub.served.clear()
        seconds = self._seconds()
        twice: list[int] = []
        while True:
            child = self._start()
            if len(twice) < most_kills:
                self._wait_for_bytes(child)
                time.sleep(rng.random() * seconds * 0.4)
                child.kill()  # nothing happens if it has ended
            status = child.wait()
            if status == 0:
                return twice
            if status != -signal.SIGKILL:
                raise RuntimeError(f"qwenctl pull ended with status {status}")
            time.sleep(0.1)  # until the hub's threads have noticed
            twice.append(self._sent() - kept_bytes(self.folder, self.remotes) - sum(twice))

    def is_right(self) -> bool:
        """Tell whether all parts are there, and nothing half-done."""
        left = [path for path in self.folder.rglob("*") if path.suffix in (".partial", ".journal")]
        return not left and all(
            hashlib.sha256((self.folder / remote.path).read_bytes()).hexdigest() == remote.sha256
            for remote in self.remotes
        )

    def _start(self) -> subprocess.Popen[bytes]:
        home = self.folder.with_name("home")
        home.mkdir(exist_ok=True)
        own = {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(home / "hf"), "HOME": str(home)}
        own |= {"XDG_DATA_HOME": str(home / "data"), "XDG_CACHE_HOME": str(home / "cache")}
        command = [sys.executable, "-m", "qwenctl", "pull", f"{_REPO}:q4_k_m", str(self.folder / "killed-q4_k_m.gguf")]
        return subprocess.Popen(
            command, env=os.environ | own, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _sent(self) -> int:
        return sum(self.hub.served[remote.name] for remote in self.remotes)

    def _seconds(self) -> float:
        total = sum(remote.n_bytes for remote in self.remotes)
        return total / (8 * self.hub.bytes_per_s) if self.hub.bytes_per_s else 0.4

    def _wait_for_bytes(self, child: subprocess.Popen[bytes]) -> None:
        before = self._sent()
        while child.poll() is None and self._sent() == before:
            time.sleep(0.005)
