"""A repository of a hub at one commit: its files with sizes and hashes, and what is said of it. Values, no network.

Which files may be fetched is decided here, once: weights as safetensors or GGUF, and small files of text. Pickles run
whatever code they carry, and no other kind of weights is read by anything of ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote

from quant.shown import shown

MAX_TEXT_BYTES = 256 << 20  # of one small file: the largest tokenizer.json known has 33 MB
_TEXT_SUFFIXES = (".json", ".jinja", ".txt", ".md")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file. `path` is relative to the repository, with slashes.

    `sha256` is of the contents, and known of files in LFS: all weights. `git_oid` is git's object name, which is
    SHA-1 of a header and the contents; of a file in LFS it names the pointer.

    Raises:
        ValueError: a path that leaves the folder, or something that is not a hash.
    """

    path: str
    n_bytes: int
    sha256: str | None = None
    git_oid: str | None = None

    def __post_init__(self) -> None:
        parts = self.path.split("/")
        if self.path.startswith("/") or "\\" in self.path or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"the hub lists a file {shown(self.path)}, which is no relative path")
        if self.n_bytes < 0 or (self.sha256 is not None and not _SHA256.fullmatch(self.sha256)):
            raise ValueError(f"the hub lists {shown(self.path)} without a sound length or hash")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF file by its name."""
        return self.path.lower().endswith(".gguf")

    @property
    def is_shard(self) -> bool:
        """Whether it is a safetensors file at the top of the repository, where a checkpoint's weights lie."""
        return self.path.endswith(".safetensors") and "/" not in self.path

    @property
    def is_pickle(self) -> bool:
        """Whether it holds weights in a form that runs code when it is read."""
        return self.path.lower().endswith(_PICKLES)

    @property
    def is_text(self) -> bool:
        """Whether it is one of the small files that a checkpoint needs beside its weights."""
        named = self.path.endswith(_TEXT_SUFFIXES) or self.name.upper().startswith("LICENSE")
        placed = "/" not in self.path or self.path.startswith("additional_chat_templates/")
        return named and placed and self.n_bytes <= MAX_TEXT_BYTES


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository at one commit.

    `gated` is "auto", "manual" or None; `license_name` and `base_models` are what its card says.

    Raises:
        ValueError: not a commit.
    """

    endpoint: str
    repo_id: str
    commit: str
    files: tuple[HubFile, ...]
    revision: str = "main"  # as asked for
    license_name: str | None = None
    license_link: str | None = None
    gated: str | None = None
    is_private: bool = False
    base_models: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _COMMIT.fullmatch(self.commit):
            raise ValueError(f"the hub calls the commit of {self.repo_id} {shown(self.commit)}")

    @property
    def page(self) -> str:
        """The address of its page, for people."""
        return f"{self.endpoint}/{self.repo_id}"

    def url(self, file: HubFile) -> str:
        """Return where the bytes of `file` are, at this very commit."""
        return f"{self.endpoint}/{self.repo_id}/resolve/{self.commit}/{quote(file.path)}"

    @property
    def ggufs(self) -> tuple[HubFile, ...]:
        """All GGUF files, at any depth."""
        return tuple(file for file in self.files if file.is_gguf)

    @property
    def shards(self) -> tuple[HubFile, ...]:
        """The weights of a checkpoint."""
        return tuple(file for file in self.files if file.is_shard)

    @property
    def texts(self) -> tuple[HubFile, ...]:
        """The small files of a checkpoint."""
        return tuple(file for file in self.files if file.is_text)
