"""Recognize a checkpoint again: sizes, times and headers of its weight files, contents of the files beside them.

Weights themselves are not hashed: reading 470 GB to learn whether a conversion may go on would cost as much as a good
part of it. Whoever rewrites weights in place under an equal header and sets the clock back is not caught.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from quant.source_files import DISK, SourceFiles

_SMALL_FILES = (
    "config.json", "generation_config.json", "model.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "chat_template.json", "README.md",
)  # fmt: skip
_HASH_CHARS = 16


def fingerprint_checkpoint(folder: Path, weight_files: Sequence[Path], source: SourceFiles = DISK) -> dict[str, str]:
    """Return what identifies the checkpoint, by file name, as text that can be shown.

    Args:
        folder: the checkpoint; where it lies does not count, so that it may be moved.
        weight_files: its safetensors files, with headers that were validated.
        source: where these are.
    """
    shards = {f"source file {path.name}": source.describe(path) for path in weight_files}
    small = {f"source file {name}": _digest_file(folder / name) for name in _SMALL_FILES if (folder / name).is_file()}
    return shards | small


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_HASH_CHARS]
