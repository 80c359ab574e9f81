"""Downloads that meet a full disk at one operation after another, and go on when there is space again."""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path

from qwenctl.errors import DoesNotFit
from qwenctl.services.hub.connections import ClientOptions
from qwenctl.services.hub.download import download
from qwenctl.services.hub.range_client import RangeClient
from tests.hub_server.remote_files import remote_files
from tests.hub_server.server import HubServer
from tests.quant.disk_faults import CountingFiles, FailingFiles

from .shards import add_shards, is_whole, kept_bytes


@dataclass(frozen=True, slots=True)
class FullDiskReport:
    """What became of it."""

    n_points: int
    n_refused: int  # ended with an error that says so, and nothing under a final name that is not whole
    n_right: int  # went on and ended with the right bytes
    most_twice_bytes: int


def measure_full_disks(folder: Path, n_points: int, shard_bytes: int = 16 << 20) -> FullDiskReport:
    """Fill the disk at `n_points` operations, evenly spread over those of a download."""
    target = folder / "full"
    n_refused = n_right = most_twice = 0
    with HubServer() as hub:
        repository = add_shards(hub, 3, shard_bytes)
        remotes = remote_files(hub.url, repository)
        counting = CountingFiles()
        download(RangeClient(ClientOptions(hub.url)), remotes, target, files=counting)
        shutil.rmtree(target)
        for point in range(n_points):
            hub.served.clear()
            at = 1 + point * (counting.n_done * 9 // 10) // n_points
            try:
                download(RangeClient(ClientOptions(hub.url)), remotes, target, files=FailingFiles(at, errno.ENOSPC))
            except DoesNotFit:
                n_refused += 1
            twice = hub.served.total() - kept_bytes(target, remotes)
            download(RangeClient(ClientOptions(hub.url)), remotes, target)
            n_right += is_whole(target, repository)
            most_twice = max(most_twice, twice)
            shutil.rmtree(target)
    return FullDiskReport(n_points, n_refused, n_right, most_twice)
