"""One malformed file: how to build it, and what must be said about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Case:
    """`build(path)` writes the file; opening it must raise exactly `error`, with `fragment` in its message."""

    name: str
    build: Callable[[Path], object]
    error: type[Exception]
    fragment: str
    file_name: str

    def make(self, folder: Path) -> Path:
        """Build the file in `folder`; return it."""
        self.build(folder / self.file_name)
        return folder / self.file_name

    def __str__(self) -> str:
        return self.name
