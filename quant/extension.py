"""Find the libraries that were compiled with the package: optional, so each has something that stands in for it."""

from __future__ import annotations

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path


def load_extension(folder: Path, name: str, *functions: str) -> ctypes.CDLL | None:
    """Return the compiled extension `name` in `folder`.

    None: it was not built, or for another machine, or is an older one that lacks one of `functions`.
    """
    for suffix in EXTENSION_SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:
                return None
            return library if all(hasattr(library, function) for function in functions) else None
    return None
