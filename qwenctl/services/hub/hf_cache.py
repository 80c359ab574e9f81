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
from collections.abc import Sequence
from pathlib import Path

from quant.errors import JsonFileError
from quant.json_file import read_json_object
from quant.shown import some
from qwenctl.errors import HubUnreachable
from qwenctl.services.hub.listing import Repository, listed_file
from qwenctl.services.hub.remote_file import RemoteFile
from qwenctl.settings import HubSettings

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_TREE_BYTES = 64 << 20
_TREE_VERSION = 1

_Entry = tuple[int, str | None, str | None]  # length, SHA-256, git's object name


def cached_file(cache_dir: Path, file: RemoteFile) -> Path | None:
    """Return where the cache holds `file`, its links followed; None if it does not, or in another length.

    That the bytes are those of the hash is not checked: see `hashing.holds`.
    """
    folder = _repo_folder(cache_dir, file.repo_id)
    places = [folder / "snapshots" / file.commit / file.path]
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
        HubUnreachable: nothing of it is there.
    """
    folder = _repo_folder(settings.cache_dir, repo_id)
    commit = _commit(folder, revision or "main")
    entries = {} if commit is None else _tree(folder, commit) or _snapshot(folder / "snapshots" / commit)
    if commit is None or not entries:
        wanted = f"{repo_id}@{revision}" if revision else repo_id
        message = f"HF_HUB_OFFLINE is set, and {settings.cache_dir} holds nothing of {wanted}"
        raise HubUnreachable(message, "unset HF_HUB_OFFLINE to ask the hub")
    files = tuple(
        listed_file(settings.endpoint, repo_id, commit, path, n_bytes=n_bytes, sha256=sha256, git_oid=git_oid)
        for path, (n_bytes, sha256, git_oid) in entries.items()
    )
    return Repository(settings.endpoint, repo_id, commit, files, revision or "main")


def not_cached(remotes: Sequence[RemoteFile]) -> HubUnreachable:
    """Return the error for files that would have to be fetched, without a network."""
    names = some([remote.name for remote in remotes], 3)
    hint = "unset HF_HUB_OFFLINE to fetch what is missing"
    return HubUnreachable(f"HF_HUB_OFFLINE is set, and not in the cache: {names}", hint)


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


def _tree(folder: Path, commit: str) -> dict[str, _Entry]:
    """Return what a cached tree lists; nothing where there is no tree that can be read."""
    try:
        tree = read_json_object(folder / "trees" / f"{commit}.json", _MAX_TREE_BYTES)
        if tree.get("format_version") != _TREE_VERSION:
            return {}
        return {
            path: (int(entry.get("lfs_size") or entry["size"]), entry.get("lfs_sha256"), entry["blob_id"])
            for path, entry in tree["files"].items()
        }
    except (JsonFileError, KeyError, TypeError, AttributeError, ValueError):
        return {}


def _snapshot(snapshot: Path) -> dict[str, _Entry]:
    """Return what lies in a snapshot; the hashes are the names of its blobs."""
    found: dict[str, _Entry] = {}
    for path in sorted(snapshot.rglob("*")):
        if path.is_file():
            blob = path.resolve().name
            sha256 = blob if _SHA256.fullmatch(blob) else None
            git_oid = blob if _COMMIT.fullmatch(blob) else None
            found[path.relative_to(snapshot).as_posix()] = (path.stat().st_size, sha256, git_oid)
    return found
