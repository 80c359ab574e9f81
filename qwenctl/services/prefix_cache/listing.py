"""What is in the folder of stored prefixes, for people who look at it: nothing of what was typed, only how much.

Looks at records, not at cells; knows nothing of engines.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qwenctl.services.model_removal import Removable
from qwenctl.services.prefix_cache.entry_file import BadEntry, read_entry
from qwenctl.services.prefix_cache.prefix_store import stored_files


@dataclass(frozen=True, slots=True)
class StoredPrefix:
    """One file. `model` is None where it is damaged."""

    path: Path
    file_bytes: int
    used_s: float  # since the epoch
    model: str | None
    n_tokens: int

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return self.path.stem[:8]


def stored_prefixes(folder: Path) -> list[StoredPrefix]:
    """Return all of them, the latest used first."""
    found = []
    for file in stored_files(folder):
        model, n_tokens = None, 0
        with suppress(BadEntry, OSError):
            record = read_entry(file.path).record
            model, n_tokens = record.model, record.n_tokens
        found.append(StoredPrefix(file.path, file.file_bytes, file.used_s, model, n_tokens))
    return sorted(found, key=lambda one: -one.used_s)


def removable(prefix: StoredPrefix) -> Removable:
    """Return a prefix as what `print_removed` prints."""
    why = f"{prefix.n_tokens} tokens of {prefix.model}" if prefix.model else "damaged"
    return Removable(prefix.path, prefix.file_bytes, why)
