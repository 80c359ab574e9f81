"""Files that huggingface_hub has fetched before: found in its cache by their hash, and used where they lie.

    <cache>/models--Qwen--Qwen3-8B/refs/main                 the commit that a revision meant
                                  /snapshots/<commit>/…      links into blobs, by path
                                  /blobs/<sha256>            a file in LFS; others are called by git's SHA-1
                                  /trees/<commit>.json       sizes and hashes of all files, since 1.x

Nothing in there is ever written or removed. Only whole files count: what is being fetched is called `.incomplete`.
Source: "Understand caching" of huggingface_hub's documentation, and its _tree_cache.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from quant.errors import JsonFileError
from quant.json_file import read_json_object
from qwenctl.errors import HubFailed
from qwenctl.services.hub.listing import HubFile, Repository
from qwenctl.settings import HubSettings

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_TREE_BYTES = 64 << 20
_TREE_VERSION = 1


def cached_file(cache_dir: Path, repo_id: str, commit: str, file: HubFile) -> Path | None:
    """Return where the cache holds `file`, its links followed; None if it does not, or in another length.

    That the bytes are those of the hash is not checked: see `hashing.sha256_of`.
    """
    folder = _repo_folder(cache_dir, repo_id)
    places = [folder / "snapshots" / commit / file.path]
    if file.sha256 is not None:
        places.insert(0, folder / "blobs" / file.sha256)  # whatever the commit, the same bytes
    for place in places:
        if place.is_file() and place.stat().st_size == file.n_bytes:
            return place.resolve()
    return None


def cached_repository(settings: HubSettings, repo_id: str, revision: str | None = None) -> Repository:
    """Return what the cache knows of a repository, for use without a network.

    Without a tree of the commit in the cache, the files are those of its snapshot.

    Raises:
        HubFailed: nothing of it is there.
    """
    folder = _repo_folder(settings.cache_dir, repo_id)
    commit = _commit(folder, revision or "main")
    files = () if commit is None else _tree_files(folder, commit) or _snapshot_files(folder / "snapshots" / commit)
    if commit is None or not files:
        wanted = f"{repo_id}@{revision}" if revision else repo_id
        message = f"HF_HUB_OFFLINE is set, and {settings.cache_dir} holds nothing of {wanted}"
        raise HubFailed(message, "unset HF_HUB_OFFLINE to ask the hub")
    return Repository(settings.endpoint, repo_id, commit, files, revision or "main")


def _repo_folder(cache_dir: Path, repo_id: str) -> Path:
    return cache_dir / f"models--{repo_id.replace('/', '--')}"


def _commit(folder: Path, revision: str) -> str | None:
    if _COMMIT.fullmatch(revision):
        return revision
    if any(part in ("", ".", "..") for part in revision.split("/")):
        return None
    try:
        text = (folder / "refs" / revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return text if _COMMIT.fullmatch(text) else None


def _tree_files(folder: Path, commit: str) -> tuple[HubFile, ...]:
    """Return the files of a cached tree; none where there is no tree that can be read."""
    try:
        tree = read_json_object(folder / "trees" / f"{commit}.json", _MAX_TREE_BYTES)
        if tree.get("format_version") != _TREE_VERSION:
            return ()
        return tuple(_tree_file(path, entry) for path, entry in tree["files"].items())
    except (JsonFileError, KeyError, TypeError, AttributeError, ValueError):
        return ()


def _tree_file(path: str, entry: dict[str, Any]) -> HubFile:
    return HubFile(path, int(entry.get("lfs_size") or entry["size"]), entry.get("lfs_sha256"), entry["blob_id"])


def _snapshot_files(snapshot: Path) -> tuple[HubFile, ...]:
    found = []
    for path in sorted(snapshot.rglob("*")):
        if path.is_file():
            blob = path.resolve().name
            sha256 = blob if _SHA256.fullmatch(blob) else None
            git_oid = blob if _COMMIT.fullmatch(blob) else None
            found.append(HubFile(path.relative_to(snapshot).as_posix(), path.stat().st_size, sha256, git_oid))
    return tuple(found)
