"""One file of one commit on a hub: where it is, how long, and by which hash it is recognized.

What a hub says is checked here, once: a path that would leave its folder, or a hash that is none, cannot become an
object. Knows nothing of how files are fetched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from quant.shown import shown

_REPO = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(?:/[A-Za-z0-9_][\w.-]{0,95})?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_OID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_MAX_PART_BYTES = 200  # file systems take 255; `.partial`, `.journal` come behind it
_MAX_PATH_CHARS = 1024


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a commit. Two with the same hash hold the same bytes, whatever their commit.

    Raises:
        ValueError: a value is not what it must be; the message names the repository and the value.
    """

    repo_id: str  # "Qwen/Qwen3-0.6B"
    commit: str  # 40 hexadecimal digits: a branch moves, a commit does not
    path: str  # inside the repository, parts separated by "/"
    url: str  # of this commit's file on the hub: …/resolve/<commit>/<path>
    n_bytes: int
    sha256: str | None = None  # of the contents; the hub has it for files kept in large file storage (LFS)
    git_oid: str | None = None  # Git's hash of the contents as a blob; for files that are not in LFS
    etag: str | None = None  # as the hub gave it for this commit, without quotes

    def __post_init__(self) -> None:
        self._require(bool(_REPO.fullmatch(self.repo_id)) and ".." not in self.repo_id, "repository", self.repo_id)
        self._require(bool(_COMMIT.fullmatch(self.commit)), "commit", self.commit)
        self._require(is_safe_path(self.path), "path", self.path)
        url = urlsplit(self.url)
        self._require(url.scheme in ("http", "https") and bool(url.hostname) and not url.username, "URL", self.url)
        self._require(self.n_bytes >= 0, "size", self.n_bytes)
        self._require(self.sha256 is None or bool(_SHA256.fullmatch(self.sha256)), "SHA-256", self.sha256)
        self._require(self.git_oid is None or bool(_GIT_OID.fullmatch(self.git_oid)), "Git hash", self.git_oid)

    def _require(self, holds: bool, what: str, value: object) -> None:
        if not holds:
            raise ValueError(f"{shown(self.repo_id)}: the hub gives {shown(value)} as {what} of {shown(self.path)}")

    @property
    def name(self) -> str:
        """The repository and the path, as messages name the file."""
        return f"{self.repo_id}/{self.path}"


def is_safe_path(path: str) -> bool:
    """Tell whether `path` stays inside the folder that it is joined to, on every system."""
    parts = path.split("/")
    return (
        0 < len(path) <= _MAX_PATH_CHARS
        and path.isprintable()
        and not any(char in path for char in '\\:*?"<>|')
        and all(part not in ("", ".", "..") and len(part.encode()) <= _MAX_PART_BYTES for part in parts)
    )
