"""A small checkpoint on the loopback hub, and what the services see of it."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from qwenctl.services.hub.range_client import RangeClient
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.services.remote_checkpoint import HubShard, RemoteCheckpoint
from tests.hub_server.faults import Exchange, Fault
from tests.hub_server.server import HubServer

REPO = "Org/Tiny-MoE-0.6M"


def add_checkpoint(hub: HubServer, folder: Path, repo_id: str = REPO) -> str:
    """Put the folder's files on the hub; return the commit."""
    return str(hub.add(repo_id, {path.name: path for path in folder.iterdir()}).refs["main"])


def snapshot_of(folder: Path, cache: Path, repo_id: str = REPO) -> Path:
    """Return the folder as it lies in the hub's cache, where a conversion finds the repository's name."""
    snapshot = cache / f"models--{repo_id.replace('/', '--')}" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        (snapshot / path.name).symlink_to(path)
    return snapshot


def fail_from_first_mark(hub: HubServer, shard: str, journal: Path) -> None:
    """Let the hub refuse everything of a shard but its header, once a conversion has recorded how far it has read."""

    def fault(exchange: Exchange) -> Fault | None:
        if shard not in exchange.file or exchange.offset_bytes == 0:
            return None
        for _ in range(3000):
            if journal.exists() and b'"read"' in journal.read_bytes():
                break
            time.sleep(0.01)
        return Fault(status=503)

    hub.fault = fault


def remote_checkpoint(
    hub: HubServer, client: RangeClient, folder: Path, small_files: Path, commit: str, repo_id: str = REPO
) -> RemoteCheckpoint:
    """Return the checkpoint, its small files copied from `folder` into `small_files`."""
    small_files.mkdir(exist_ok=True)
    shards = {}
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            (small_files / path.name).write_bytes(path.read_bytes())
            continue
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        url = f"{hub.url}/{repo_id}/resolve/{commit}/{path.name}"
        remote = RemoteFile(repo_id, commit, path.name, url, path.stat().st_size, sha256)
        shards[path.name] = HubShard(client, remote)
    return RemoteCheckpoint(repo_id, commit, small_files, shards)
