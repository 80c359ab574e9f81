"""A repository of random shards on the test hub, and what a download of it has left on the disk."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

from quant.journal import read_state
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.services.hub.slices import slice_span
from tests.hub_server.repository import HubRepository
from tests.hub_server.server import HubServer


def add_shards(hub: HubServer, n_shards: int, shard_bytes: int, seed: int = 1) -> HubRepository:
    """Add a repository with a small file and shards of random bytes, all of one length but the last."""
    rng = random.Random(seed)
    files = {"config.json": json.dumps({"seed": seed, "padding": "x" * 2000}).encode()}
    for number in range(n_shards):
        n_bytes = shard_bytes + (number == n_shards - 1) * 777
        files[f"model-{number + 1:05}-of-{n_shards:05}.safetensors"] = rng.randbytes(n_bytes)
    return hub.add("bench/shards", files)


def kept_slices(folder: Path, remote: RemoteFile) -> list[int]:
    """Return the slices that the journal of an unfinished file records."""
    journal = folder / f"{remote.path}.journal"
    return sorted(read_state(journal.read_bytes()).done) if journal.exists() else []


def kept_bytes(folder: Path, remotes: list[RemoteFile]) -> int:
    """Return the bytes that another run need not fetch again: of complete files and of recorded slices."""
    kept = 0
    for remote in remotes:
        if (folder / remote.path).exists():
            kept += remote.n_bytes
        else:
            kept += sum(slice_span(number, remote.n_bytes).n_bytes for number in kept_slices(folder, remote))
    return kept


def is_whole(folder: Path, repository: HubRepository) -> bool:
    """Tell whether `folder` holds the files of `main`, byte for byte, and nothing besides."""
    blobs = repository.commits[repository.refs["main"]]
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return found == set(blobs) and all(
        hashlib.sha256((folder / path).read_bytes()).hexdigest() == blob.sha256 for path, blob in blobs.items()
    )
