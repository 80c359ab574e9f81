"""A checkpoint whose weights are on a hub: its small files lie in a folder, its shards are read in ranges.

    folder/config.json, tokenizer.json, …      fetched before, by whoever resolved the name
    model-00001-of-00118.safetensors           beginning (header) read at once, for all shards side by side;
                                               the rest by whoever converts, in order

Seen as `quant.source_files.SourceFiles`, so that the code which opens, checks and plans a folder does the same here.
Knows nothing of HTTP beyond the client that it is handed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from quant.conversion_plan import ConversionSource, read_source
from quant.errors import CheckpointError, SafetensorsError
from quant.safetensors_read import MAX_HEADER_BYTES
from quant.shown import named
from qwenctl.services.hub.range_client import RangeClient
from qwenctl.services.hub.remote_file import RemoteFile

_N_HEADERS_AT_ONCE = 16

_BEGINNING_BYTES = 64 << 10
"""Of a shard, asked for first: the header of most (300 tensors take 40 KB). What is longer is asked for again."""


class Shard(Protocol):
    """A file of weights: on a hub, or complete on this disk already."""

    @property
    def size_bytes(self) -> int:
        """Its length."""
        ...

    @property
    def sha256(self) -> str | None:
        """Its hash as the hub gives it, in hexadecimal."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether reading it fetches nothing."""
        ...

    def read_into(self, offset_bytes: int, out: memoryview) -> None:
        """Fill all of `out`, one byte an element; safe from several threads.

        Raises:
            QwenctlError: it cannot be had, for good.
        """
        ...


@dataclass(frozen=True, slots=True)
class HubShard:
    """A shard that a client reads from a hub."""

    client: RangeClient
    remote: RemoteFile

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return self.remote.n_bytes

    @property
    def sha256(self) -> str | None:
        """Its hash."""
        return self.remote.sha256

    @property
    def is_local(self) -> bool:
        """Never."""
        return False

    def read_into(self, offset_bytes: int, out: memoryview) -> None:
        """See `RangeClient.read_into`."""
        self.client.read_into(self.remote, offset_bytes, out)


@dataclass(frozen=True, slots=True)
class LocalShard:
    """A shard that some cache has whole. It is hashed like any other while it is read."""

    path: Path
    sha256: str | None

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return self.path.stat().st_size

    @property
    def is_local(self) -> bool:
        """Always."""
        return True

    def read_into(self, offset_bytes: int, out: memoryview) -> None:
        """Read from the disk."""
        with self.path.open("rb", buffering=0) as file:
            done = 0
            while done < len(out):
                read = os.preadv(file.fileno(), [out[done:]], offset_bytes + done)
                if read == 0:
                    raise SafetensorsError(self.path, "became shorter while it was read", "fetch it again")
                done += read


@dataclass(frozen=True, slots=True)
class RemoteCheckpoint:
    """A checkpoint of one commit.

    Args:
        repo_id: "organisation/name" on the hub.
        commit: which the files are of.
        folder: holds the small files, fetched and verified; no weights.
        shards: every file of safetensors beside them, by name.
    """

    repo_id: str
    commit: str
    folder: Path
    shards: Mapping[str, Shard]


@dataclass(frozen=True, slots=True)
class RemoteShards:
    """The weights of a checkpoint as `quant` sees them: paths into its folder, where no such files lie.

    `beginnings` holds each shard's first bytes, its whole header among them.
    """

    shards: Mapping[str, Shard]
    beginnings: dict[str, bytes] = field(default_factory=dict)

    def names(self, folder: Path) -> set[str]:
        """Return the names of the small files and the shards."""
        return {path.name for path in folder.iterdir()} | set(self.shards)

    def size_bytes(self, path: Path) -> int:
        """Return the length of a shard."""
        return self.shards[path.name].size_bytes

    def read(self, path: Path, offset_bytes: int, n_bytes: int) -> bytes:
        """Return some bytes; those of the header are here already."""
        beginning = self.beginnings.get(path.name, b"")
        if offset_bytes + n_bytes <= len(beginning):
            return beginning[offset_bytes : offset_bytes + n_bytes]
        out = bytearray(max(0, min(n_bytes, self.size_bytes(path) - offset_bytes)))
        self.fetch(path, offset_bytes, memoryview(out))
        return bytes(out)

    def describe(self, path: Path) -> str:
        """Return size and hash: a shard with the same is the same, whatever its commit."""
        sha256 = self.shards[path.name].sha256 or "unknown"
        return f"{self.size_bytes(path)} bytes, sha256 {sha256}, header {self.header_sha256(path)[:16]}"

    def sha256(self, path: Path) -> str:
        """Return the hash that the hub gives.

        Raises:
            CheckpointError: it gives none.
        """
        found = self.shards[path.name].sha256
        if found is None:
            raise CheckpointError(
                f"the hub gives no SHA-256 of {named(path.name)}, so what arrives cannot be verified",
                "fetch the checkpoint whole, qwenctl pull --raw, then qwenctl convert it",
            )
        return found

    def header_sha256(self, path: Path) -> str:
        """Return the SHA-256 of the file up to its first tensor."""
        return hashlib.sha256(self.read(path, 0, 8 + _header_bytes(self.read(path, 0, 8)))).hexdigest()

    def fetch(self, path: Path, offset_bytes: int, out: memoryview) -> None:
        """Fill `out`."""
        self.shards[path.name].read_into(offset_bytes, out)

    def open(self) -> RemoteShards:
        """Return itself: there is nothing to open."""
        return self

    def close(self) -> None:
        """Nothing."""

    def read_into(self, path: Path, offset_bytes: int, out: memoryview) -> int:
        """Read a part out of order, as measuring for a budget does. It is not verified by the shard's hash."""
        self.fetch(path, offset_bytes, out)
        return len(out)

    def read_beginnings(self) -> None:
        """Read the headers of all shards, side by side.

        Raises:
            QwenctlError: one cannot be had.
        """
        pool = ThreadPoolExecutor(_N_HEADERS_AT_ONCE)
        try:
            self.beginnings.update(zip(self.shards, pool.map(_beginning, self.shards.values()), strict=True))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # whoever closes the client ends reads that hang


def read_remote_checkpoint(checkpoint: RemoteCheckpoint) -> tuple[ConversionSource, RemoteShards]:
    """Read the small files and the headers of all shards, no weights; return what is to be converted, and its weights.

    Raises:
        QuantError: see `quant.conversion_plan.read_source`.
        QwenctlError: the hub does not answer.
    """
    shards = read_shards(checkpoint)
    return read_source(checkpoint.folder, checkpoint.repo_id, shards), shards


def read_shards(checkpoint: RemoteCheckpoint) -> RemoteShards:
    """Return where the weights are, the headers of all shards read."""
    shards = RemoteShards(checkpoint.shards)
    shards.read_beginnings()
    return shards


def _beginning(shard: Shard) -> bytes:
    """Return the first bytes of a shard, with all of the header if its length is one that is allowed."""
    beginning = _read(shard, 0, min(_BEGINNING_BYTES, shard.size_bytes))
    n_bytes = 8 + _header_bytes(beginning)
    if len(beginning) < n_bytes <= min(8 + MAX_HEADER_BYTES, shard.size_bytes):
        return beginning + _read(shard, len(beginning), n_bytes - len(beginning))
    return beginning


def _header_bytes(beginning: bytes) -> int:
    return int.from_bytes(beginning[:8], "little")


def _read(shard: Shard, offset_bytes: int, n_bytes: int) -> bytes:
    out = bytearray(n_bytes)
    shard.read_into(offset_bytes, memoryview(out))
    return bytes(out)
