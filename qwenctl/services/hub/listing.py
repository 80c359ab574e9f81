"""A repository of a hub at one commit: its files with sizes and hashes, and what is said of it. Values, no network.

Which files may be fetched is decided here, once: weights as safetensors or GGUF, and small files of text. Pickles run
whatever code they carry, and no other kind of weights is read by anything of ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from qwenctl.services.hub.remote_file import RemoteFile

MAX_TEXT_BYTES = 256 << 20  # of one small file: the largest tokenizer.json known has 33 MB
_TEXT_SUFFIXES = (".json", ".jinja", ".txt", ".md")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository at one commit.

    `gated` is "auto", "manual" or None; `license_name` and `base_models` are what its card says.
    """

    endpoint: str
    repo_id: str
    commit: str
    files: tuple[RemoteFile, ...]
    revision: str = "main"  # as asked for
    license_name: str | None = None
    license_link: str | None = None
    gated: str | None = None
    is_private: bool = False
    base_models: tuple[str, ...] = ()

    @property
    def page(self) -> str:
        """The address of its page, for people."""
        return f"{self.endpoint}/{self.repo_id}"

    @property
    def shards(self) -> tuple[RemoteFile, ...]:
        """The weights of a checkpoint."""
        return tuple(file for file in self.files if is_shard(file.path))

    @property
    def texts(self) -> tuple[RemoteFile, ...]:
        """The small files of a checkpoint."""
        return tuple(file for file in self.files if is_text(file.path) and file.n_bytes <= MAX_TEXT_BYTES)


def listed_file(
    endpoint: str, repo_id: str, commit: str, path: str, *, n_bytes: int, sha256: str | None, git_oid: str | None
) -> RemoteFile:
    """Return a file as a hub lists it.

    Args:
        sha256: of the contents; known of files in LFS, as all weights are.
        git_oid: git's name of the object: of a file in LFS that is its pointer, and of no use.

    Raises:
        ValueError: a path or a hash that is none.
    """
    url = f"{endpoint}/{repo_id}/resolve/{commit}/{quote(path)}"
    return RemoteFile(repo_id, commit, path, url, n_bytes, sha256, None if sha256 else git_oid)


def is_gguf(path: str) -> bool:
    """Tell whether a path names a GGUF file."""
    return path.lower().endswith(".gguf")


def is_shard(path: str) -> bool:
    """Tell whether a path names safetensors at the top of a repository, where a checkpoint's weights lie."""
    return path.endswith(".safetensors") and "/" not in path


def is_pickle(path: str) -> bool:
    """Tell whether a path names weights in a form that runs code when it is read."""
    return path.lower().endswith(_PICKLES)


def is_text(path: str) -> bool:
    """Tell whether a path names one of the small files that a checkpoint needs beside its weights."""
    is_placed = "/" not in path or path.startswith("additional_chat_templates/")
    return is_placed and (path.endswith(_TEXT_SUFFIXES) or path.upper().startswith("LICENSE"))


def last_part(path: str) -> str:
    """Return the file's own name."""
    return path.rsplit("/", 1)[-1]
