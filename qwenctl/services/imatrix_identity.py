"""What a run that gathers statistics depends on, by name: a run may only go on where all of it is the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

from quant.gguf_read import GgufFile

_N_SAMPLES, _SAMPLE_BYTES = 64, 4096
_HASH_CHARS = 16


def model_fingerprint(gguf: GgufFile) -> str:
    """Return the size of a model and a digest of its headers and of samples of its weights.

    Hashing 142 GB to learn whether a run may go on would take as long as reading a few chunks does.
    """
    whole = hashlib.sha256()
    for path in gguf.paths:
        size = path.stat().st_size
        step = max(1, size // _N_SAMPLES)
        with path.open("rb") as file:
            whole.update(file.read(gguf.data_offset_bytes if path == gguf.paths[0] else _SAMPLE_BYTES))
            for start in range(0, size, step):
                file.seek(start)
                whole.update(file.read(_SAMPLE_BYTES))
    return f"{gguf.size_bytes} bytes, {whole.hexdigest()[:_HASH_CHARS]}"


def file_digest(path: Path) -> str:
    """Return a digest of a whole file: of an importance matrix that is merged."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_HASH_CHARS]
