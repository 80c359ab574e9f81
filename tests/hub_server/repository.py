"""Repositories as a hub keeps them: commits of named files, large ones in LFS by their SHA-256."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LFS_SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt", ".npz", ".parquet")
LFS_FROM_BYTES = 10 << 20  # the hub refuses larger files outside LFS


@dataclass(frozen=True)
class Blob:
    """Contents of a file, and the hashes that the hub knows them by."""

    data: memoryview
    sha256: str
    git_oid: str  # of the contents; for LFS files of the pointer, which is what Git has
    is_lfs: bool

    @classmethod
    def of(cls, path: str, contents: bytes | Path) -> Blob:
        data = _view(contents)
        sha256 = hashlib.sha256(data).hexdigest()
        is_lfs = path.endswith(LFS_SUFFIXES) or len(data) >= LFS_FROM_BYTES
        in_git = _pointer(sha256, len(data)) if is_lfs else bytes(data)
        git_oid = hashlib.sha1(b"blob %d\0" % len(in_git) + in_git).hexdigest()
        return cls(data, sha256, git_oid, is_lfs)

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_oid

    def tree_entry(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "oid": self.git_oid, "size": len(self.data), "path": path}
        if self.is_lfs:
            entry["lfs"] = self.lfs
        return entry

    @property
    def lfs(self) -> dict[str, Any]:
        return {
            "oid": self.sha256,
            "size": len(self.data),
            "pointerSize": len(_pointer(self.sha256, len(self.data))),
        }


@dataclass
class HubRepository:
    """A model repository. `commit` adds one and moves `main` to it."""

    repo_id: str
    gated: str | bool = False  # "auto", "manual" or False
    private: bool = False
    licence: str | None = None
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # branch or tag → commit

    def commit(self, files: Mapping[str, bytes | Path], branch: str = "main") -> str:
        """Make `files` the contents of `branch`; return the commit."""
        blobs = {path: Blob.of(path, contents) for path, contents in files.items()}
        listing = "\n".join(f"{path} {blob.sha256}" for path, blob in sorted(blobs.items()))
        parent = self.refs.get(branch, "")
        sha = hashlib.sha1(f"{self.repo_id}\n{parent}\n{listing}".encode()).hexdigest()
        self.commits[sha] = blobs
        self.refs[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """Return the commit that a branch, a tag or a (shortened) commit means."""
        if revision in self.refs:
            return self.refs[revision]
        return next((sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision)), None)

    def info(self, sha: str, *, with_blobs: bool) -> dict[str, Any]:
        """What /api/models says."""
        siblings: list[dict[str, Any]] = []
        for path, blob in self.commits[sha].items():
            entry: dict[str, Any] = {"rfilename": path}
            if with_blobs:
                entry |= {"size": len(blob.data), "blobId": blob.git_oid} | (
                    {"lfs": blob.lfs | {"sha256": blob.sha256}} if blob.is_lfs else {}
                )
            siblings.append(entry)
        licence = {"license": self.licence} if self.licence else {}
        return {
            "_id": "0" * 24,
            "id": self.repo_id,
            "modelId": self.repo_id,
            "author": self.repo_id.partition("/")[0],
            "sha": sha,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "private": self.private,
            "gated": self.gated,
            "disabled": False,
            "tags": [f"license:{self.licence}"] if self.licence else [],
            "downloads": 1,
            "likes": 1,
            "cardData": licence,
            "usedStorage": sum(len(blob.data) for blob in self.commits[sha].values()),
            "siblings": siblings,
        }


def _view(contents: bytes | Path) -> memoryview:
    if isinstance(contents, bytes):
        return memoryview(contents)
    if contents.stat().st_size == 0:
        return memoryview(b"")
    with contents.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _pointer(sha256: str, n_bytes: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {n_bytes}\n".encode()
