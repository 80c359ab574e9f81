"""Which model files llama.cpp has loaded before: a small JSON file each in the cache folder.

What counts as the same: path, size and time of every file of the model, and the build of llama.cpp. A cache that cannot
be read or written costs the next start another trial, nothing more.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from qwenctl.services.library_identity import library_identity
from qwenctl.services.split_files import model_files

Identity = dict[str, object]


def identity_of(path: Path) -> Identity | None:
    """Return what identifies the files and the library, or None for a file that cannot be looked at."""
    files = []
    for part in model_files(path):
        try:
            status = part.stat()
        except OSError:
            return None
        files.append([str(part.resolve()), status.st_size, status.st_mtime_ns])
    return {"files": files, "library": library_identity()}


def is_remembered(path: Path, identity: Identity | None, cache_dir: Path) -> bool:
    """Return whether this very file has passed with this very library."""
    if identity is None:
        return False
    try:
        return bool(json.loads(_record_path(path, cache_dir).read_text(encoding="utf-8")) == identity)
    except (OSError, ValueError):
        return False


def remember(path: Path, identity: Identity | None, cache_dir: Path) -> None:
    """Write down that it passed, as it was before the trial: a file that changed meanwhile is tried again."""
    if identity is None:
        return
    target = _record_path(path, cache_dir)
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(identity), encoding="utf-8")
        temporary.replace(target)
    except OSError:
        return


def _record_path(path: Path, cache_dir: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return cache_dir / "loadable" / f"{digest[:32]}.json"
