"""Recognize a checkpoint again: sizes, times and headers of its weight files, contents of the files beside them.

Weights themselves are not hashed: reading 470 GB to learn whether a conversion may go on would cost as much as a good
part of it. Whoever rewrites weights in place under an equal header and sets the clock back is not caught.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

_SMALL_FILES = (
    "config.json", "generation_config.json", "model.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "chat_template.json", "README.md",
)  # fmt: skip
_HASH_CHARS = 16


def fingerprint_checkpoint(folder: Path, weight_files: Sequence[Path]) -> dict[str, str]:
    """Return what identifies the checkpoint, by file name, as text that can be shown.

    Args:
        folder: the checkpoint; where it lies does not count, so that it may be moved.
        weight_files: its safetensors files, with headers that were validated.
    """
    shards = {f"source file {path.name}": describe_shard(path) for path in weight_files}
    small = {f"source file {name}": _digest_file(folder / name) for name in _SMALL_FILES if (folder / name).is_file()}
    return shards | small


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_HASH_CHARS]


def describe_shard(path: Path) -> str:
    """Return size, time and digest of the header of a safetensors file."""
    status = path.stat()
    with path.open("rb") as file:
        prefix = file.read(8)
        header = file.read(int.from_bytes(prefix, "little"))
    digest = hashlib.sha256(prefix + header).hexdigest()[:_HASH_CHARS]
    return f"{status.st_size} bytes, modified {status.st_mtime_ns}, header {digest}"
