"""Which build of llama.cpp is installed, for what is remembered about its work. Loads nothing of it."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path


def library_identity() -> list[object]:
    """Return the package's version, and its library's size and time: they differ from build to build."""
    package = metadata.distribution("llama-cpp-python")
    libraries = sorted(Path(str(package.locate_file("llama_cpp/lib"))).glob("*llama*"))
    status = libraries[0].stat() if libraries else None
    return [package.version, status.st_size if status else 0, status.st_mtime_ns if status else 0]
