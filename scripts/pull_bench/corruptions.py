"""Damage done to downloads, on the way and on the disk between two runs; each must be noticed and mended.

On the way every kind of damage is done to one answer. On the disk a download is stopped half-way by a full disk, and
slices that its journal records are damaged before it goes on.
"""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qwenctl.errors import DoesNotFit
from qwenctl.services.hub.backoff import RetryPolicy
from qwenctl.services.hub.connections import ClientOptions
from qwenctl.services.hub.download import DownloadedFile, DownloadOptions, download
from qwenctl.services.hub.range_client import CHUNK_BYTES, RangeClient
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.services.hub.slices import RUN_SLICES, SLICE_BYTES, slice_span
from tests.hub_server.faults import Exchange, Fault
from tests.hub_server.remote_files import remote_files
from tests.hub_server.repository import HubRepository
from tests.hub_server.server import HubServer
from tests.quant.disk_faults import FailingFiles

from .shards import add_shards, is_whole, kept_slices

_QUICK = RetryPolicy(first_s=0.001, most_s=0.002)
_HOLE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class CorruptionRow:
    """One kind of damage. `again`: bytes fetched beyond those that were missing."""

    kind: str
    where: str
    n_tried: int
    n_detected: int
    n_right: int  # ended with the right bytes
    median_again_bytes: int
    most_again_bytes: int


def measure_corruptions(
    folder: Path, n_on_the_way: int, n_on_disk: int, shard_bytes: int = 20 << 20
) -> list[CorruptionRow]:
    """Do each kind of damage so many times, to downloads of two shards."""
    rng = random.Random(7)
    with HubServer() as hub:
        repository = add_shards(hub, 2, shard_bytes)
        trial = _Trial(hub, repository, folder / "corrupted", rng, shard_bytes)
        rows = [_row(kind, "on the way", [trial.on_the_way(make) for _ in range(n_on_the_way)])
                for kind, make in ON_THE_WAY.items()]  # fmt: skip
        rows += [_row(kind, "on the disk", [trial.on_disk(damage) for _ in range(n_on_disk)])
                 for kind, damage in ON_DISK.items()]  # fmt: skip
    return rows


@dataclass(frozen=True, slots=True)
class _Outcome:
    detected: bool
    right: bool
    again_bytes: int


def _row(kind: str, where: str, outcomes: list[_Outcome]) -> CorruptionRow:
    again = sorted(outcome.again_bytes for outcome in outcomes)
    return CorruptionRow(
        kind,
        where,
        len(outcomes),
        sum(outcome.detected for outcome in outcomes),
        sum(outcome.right for outcome in outcomes),
        again[len(again) // 2],
        again[-1],
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    hub: HubServer
    repository: HubRepository
    folder: Path
    rng: random.Random
    shard_bytes: int

    def on_the_way(self, make: Callable[[random.Random, HubRepository, Exchange], Fault]) -> _Outcome:
        """Damage one answer, chosen by chance among those that a download gets."""
        n_answers = 2 * -(-self.shard_bytes // (RUN_SLICES * SLICE_BYTES))
        chosen, n_seen = self.rng.randrange(n_answers), 0

        def fault(exchange: Exchange) -> Fault | None:
            nonlocal n_seen
            if exchange.server != "storage":
                return None
            n_seen += 1
            return make(self.rng, self.repository, exchange) if n_seen == chosen + 1 else None

        self.hub.fault = fault
        notices: list[str] = []
        files = self._download(notices)
        self.hub.fault = lambda _: None
        again = sum(file.n_fetched_bytes - file.remote.n_bytes for file in files)
        detected = bool(notices) or any(file.n_damaged_bytes for file in files)
        return self._finish(_Outcome(detected, is_whole(self.folder, self.repository), again))

    def on_disk(self, damage: Callable[[random.Random, Path, list[int]], list[int]]) -> _Outcome:
        """Stop a download half-way, damage what it has recorded, and let it go on."""
        remotes = [remote for remote in remote_files(self.hub.url, self.repository) if remote.sha256]
        kept = self._stop_half_way(remotes)
        shard = self.rng.choice([number for number, slices in enumerate(kept) if slices])
        partial = self.folder / f"{remotes[shard].path}.partial"
        if damage is _swap:
            _swap(self.rng, partial, [])
            partial.with_name("swapped").rename(partial.with_name(f"{remotes[1 - shard].path}.partial"))
            damaged = [(remote, number) for remote, slices in zip(remotes, kept, strict=True) for number in slices]
        else:
            damaged = [(remotes[shard], number) for number in damage(self.rng, partial, kept[shard])]
        lost = sum(slice_span(number, remote.n_bytes).n_bytes for remote, number in damaged)
        missing = sum(remote.n_bytes for remote in remotes) - sum(
            slice_span(number, remote.n_bytes).n_bytes
            for remote, slices in zip(remotes, kept, strict=True)
            for number in slices
        )
        files = [file for file in self._download([]) if file.remote.sha256]
        again = sum(file.n_fetched_bytes for file in files) - missing
        found = sum(file.n_damaged_bytes for file in files)
        return self._finish(_Outcome(found == lost == again, is_whole(self.folder, self.repository), again))

    def _stop_half_way(self, remotes: list[RemoteFile]) -> list[list[int]]:
        """Fill the disk once both shards are begun and something is recorded; return the recorded slices of each."""
        n_writes = 2 * self.shard_bytes // CHUNK_BYTES
        for _ in range(100):
            with suppress(DoesNotFit):
                self._download([], FailingFiles(30 + self.rng.randrange(n_writes // 2, n_writes), errno.ENOSPC))
            kept = [kept_slices(self.folder, remote) for remote in remotes]
            if any(kept) and all((self.folder / f"{remote.path}.partial").exists() for remote in remotes):
                return kept
            shutil.rmtree(self.folder)
        raise RuntimeError("the disk was never full at the right moment")

    def _download(self, notices: list[str], files: FailingFiles | None = None) -> list[DownloadedFile]:
        with RangeClient(ClientOptions(self.hub.url, retry=_QUICK), on_wait=notices.append) as client:
            remotes = remote_files(self.hub.url, self.repository)
            return download(client, remotes, self.folder, DownloadOptions(n_connections=4), files=files)

    def _finish(self, outcome: _Outcome) -> _Outcome:
        shutil.rmtree(self.folder)
        return outcome


def _changing(change: Callable[[random.Random, bytearray], None]) -> Callable[..., Fault]:
    def make(rng: random.Random, _: HubRepository, __: Exchange) -> Fault:
        def apply(body: bytes, ___: int) -> bytes:
            changed = bytearray(body)
            change(rng, changed)
            return bytes(changed)

        return Fault(change=apply)

    return make


def _bit(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] ^= rng.randrange(1, 256)


def _hole(rng: random.Random, data: bytearray) -> None:
    start = rng.randrange(max(1, len(data) - _HOLE_BYTES))
    end = min(len(data), start + _HOLE_BYTES)
    data[start:end] = bytes(end - start)


def _truncated(rng: random.Random, _: HubRepository, exchange: Exchange) -> Fault:
    n_bytes = rng.randrange(1, exchange.n_bytes)
    if rng.random() < 0.5:
        return Fault(cut_after_bytes=n_bytes)
    return Fault(change=lambda body, _: body[:n_bytes])


def _other_shard(_: random.Random, repository: HubRepository, exchange: Exchange) -> Fault:
    blobs = repository.commits[repository.refs["main"]]
    own = exchange.file.rpartition("/")[2]
    other = next(blob for path, blob in blobs.items() if path.endswith(".safetensors") and path != own)
    return Fault(change=lambda body, start: bytes(other.data[start : start + len(body)]).ljust(len(body), b"\1"))


ON_THE_WAY: dict[str, Callable[[random.Random, HubRepository, Exchange], Fault]] = {
    "bit": _changing(_bit),
    "byte": _changing(_byte),
    "zero hole": _changing(_hole),
    "truncation": _truncated,
    "swapped shard": _other_shard,
    "HTML page": lambda *_: Fault(html=True),
    "200 for 206": lambda *_: Fault(ignore_range=True),
    "changed ETag": lambda rng, *_: Fault(headers={"ETag": f'"{rng.randbytes(rng.choice((16, 32))).hex()}"'}),
}


def _in_a_slice(change: Callable[[random.Random, bytearray], None]) -> Callable[..., list[int]]:
    def damage(rng: random.Random, partial: Path, kept: list[int]) -> list[int]:
        number = rng.choice(kept)
        span = slice_span(number, partial.stat().st_size)
        with partial.open("r+b") as file:
            file.seek(span.offset_bytes)
            data = bytearray(file.read(span.n_bytes))
            change(rng, data)
            file.seek(span.offset_bytes)
            file.write(data)
        return [number]

    return damage


def _cut(rng: random.Random, partial: Path, kept: list[int]) -> list[int]:
    start = slice_span(rng.choice(kept), partial.stat().st_size).offset_bytes + rng.randrange(SLICE_BYTES // 2)
    with partial.open("r+b") as file:
        file.truncate(start)
    return [number for number in kept if (number + 1) * SLICE_BYTES > start]


def _swap(_: random.Random, partial: Path, __: list[int]) -> list[int]:
    """Exchange the two growing files; the second one is left under the name `swapped`."""
    other = next(path for path in partial.parent.glob("*.safetensors.partial") if path != partial)
    partial.rename(partial.with_name("swapped"))
    other.rename(partial)
    return []


ON_DISK: dict[str, Callable[[random.Random, Path, list[int]], list[int]]] = {
    "bit": _in_a_slice(_bit),
    "byte": _in_a_slice(_byte),
    "zero hole": _in_a_slice(_hole),
    "truncation": _cut,
    "swapped shard": _swap,
}
