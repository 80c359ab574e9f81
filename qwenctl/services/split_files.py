"""How the files of one model are called when there are several: llama.cpp's names of split sets (tools/gguf-split).

qwen3-235b-q4_k_m-00001-of-00003.gguf …      the model qwen3-235b-q4_k_m; opened by its first file
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

SUFFIX = ".gguf"
_SPLIT = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL | re.ASCII)


def split_names(name: str, n_files: int) -> Sequence[str]:
    """Return the names of all files of a model whose one file would be called `name`."""
    if n_files == 1:
        return [name]
    stem = name.removesuffix(SUFFIX)
    return [f"{stem}-{number:05}-of-{n_files:05}{SUFFIX}" for number in range(1, n_files + 1)]


def model_files(path: Path) -> tuple[Path, ...]:
    """Return all files that a model should have: `path`, and its siblings if it is the first of a split set."""
    match = _SPLIT.fullmatch(path.name)
    if match is None or match["number"] != "00001":
        return (path,)
    return tuple(path.with_name(name) for name in split_names(match["stem"], int(match["count"])))


def model_name(path: Path) -> str:
    """Return what the model is called: the name of its file without the suffix, and without a number."""
    match = _SPLIT.fullmatch(path.name)
    return match["stem"] if match else path.name.removesuffix(SUFFIX)


def is_later_part(path: Path) -> bool:
    """Tell whether a file is of a split set, but not its first."""
    match = _SPLIT.fullmatch(path.name)
    return match is not None and match["number"] != "00001"


def first_files(folder: Path) -> list[Path]:
    """Return the first file of each model in `folder`, by name; links that lead nowhere are among them."""
    found = folder.glob(f"*{SUFFIX}")
    return sorted(path for path in found if (path.is_file() or path.is_symlink()) and not is_later_part(path))
