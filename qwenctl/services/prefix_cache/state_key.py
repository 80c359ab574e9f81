"""What a state of the KV cache belongs to: it means nothing to another model, another layout or another llama.cpp.

The length of the context is not part of it: a state holds the cells of one sequence, whatever there was room for.
Neither are devices and threads: keys and values are the same numbers there, but for rounding.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from qwenctl.services.library_identity import library_identity
from qwenctl.services.split_files import model_files

_HASHED_BYTES = 8 << 20  # of each file: metadata, tokenizer and names of tensors, the first weights of a small one


@dataclass(frozen=True, slots=True)
class StateLayout:
    """How a context stores its cells."""

    cache_type_k: str
    cache_type_v: str
    flash_attention: int  # as asked of llama.cpp (-1 auto, 0, 1): without it values lie transposed
    n_streams: int  # parts of the cache; a state lists all of them


@dataclass(frozen=True, slots=True)
class StateKey:
    """A model, a layout and a library."""

    model: str  # its name, for people
    digest: str  # 32 hexadecimal digits: all that must be the same

    def __post_init__(self) -> None:
        if len(self.digest) != 32 or not set(self.digest) <= set("0123456789abcdef"):
            raise ValueError(f"{self.digest!r} is no digest of a key")


def state_key(path: Path, name: str, layout: StateLayout) -> StateKey:
    """Return the key of states of the model at `path`. Reads 8 MiB of each of its files.

    A file counts by its size, its time and its beginning; where it lies does not matter.

    Raises:
        OSError: the model's file cannot be read any more.
    """
    files = []
    for part in model_files(path):
        status = part.stat()
        with part.open("rb") as file:
            beginning = hashlib.sha256(file.read(_HASHED_BYTES)).hexdigest()
        files.append([status.st_size, status.st_mtime_ns, beginning])
    whole = {"files": files, "layout": asdict(layout), "library": library_identity()}
    return StateKey(name, hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:32])
