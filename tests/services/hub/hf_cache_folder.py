"""Makes what huggingface_hub leaves in its cache, link by link."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def write_cached(
    cache: Path, repo_id: str, commit: str, contents: dict[str, bytes], *, in_lfs=(), with_tree=False, revision="main"
) -> Path:
    """Put files into the cache as hf_hub_download does; return the snapshot's folder."""
    folder = cache / f"models--{repo_id.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    tree = {}
    for path, data in contents.items():
        oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        sha256 = hashlib.sha256(data).hexdigest() if path in in_lfs else None
        blob = folder / "blobs" / (sha256 or oid)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link = snapshot / path
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(Path(*[".."] * (2 + path.count("/") + 0), "blobs", blob.name))
        tree[path] = {"size": len(data), "blob_id": oid} | (
            {"lfs_sha256": sha256, "lfs_size": len(data)} if sha256 else {}
        )
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    if with_tree:
        (folder / "trees").mkdir(exist_ok=True)
        (folder / "trees" / f"{commit}.json").write_text(json.dumps({"format_version": 1, "files": tree}))
    return snapshot
