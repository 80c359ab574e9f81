"""The folder of stored prefixes: one folder a key, one file a prefix, the least recently used removed when it is full.

    <folder>/<digest of the key>/<digest of the tokens>.kv          complete, from the moment it has this name
                                 <digest of the tokens>.<process>.new   being written; without its process: left over

Folders and files are readable by their owner alone: they hold what was typed. Any number of processes may use the
folder at once: files appear by renaming, and one that another process removes is a prefix that is not there. Knows
nothing of engines.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from quant.durable_files import DurableFiles
from qwenctl.services.kv_slots import common_prefix
from qwenctl.services.live_process import is_alive
from qwenctl.services.prefix_cache.entry_file import BadEntry, Entry, EntryRecord, complete_state, read_entry
from qwenctl.services.prefix_cache.options import PrefixCacheOptions
from qwenctl.services.prefix_cache.state_key import StateKey

_SUFFIX, _UNFINISHED = ".kv", ".new"
_LEFT_FREE_BYTES = 1 << 30  # of the disk, whatever the limit is


class Match(NamedTuple):
    """A stored prefix and how much of it a prompt begins with."""

    entry: Entry
    n_common: int


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the folder, as far as its name and its status tell."""

    path: Path
    file_bytes: int
    used_s: float  # since the epoch


class PrefixStore:
    """What one process sees of the folder.

    Args:
        options: where, and how much.
        files: performs what must reach the disk.
    """

    def __init__(self, options: PrefixCacheOptions, files: DurableFiles | None = None) -> None:
        self._options, self._folder = options, options.folder
        self._files = files or DurableFiles()
        self._read: dict[Path, tuple[int, Entry]] = {}  # path → inode and entry

    def best(self, key: StateKey, tokens: Sequence[int], most_tokens: int, *, whole: bool) -> Match | None:
        """Return the entry that has most in common with the beginning of `tokens`; of equals, the shortest.

        Args:
            key: what it must belong to.
            tokens: of a prompt.
            most_tokens: that an entry may hold.
            whole: only entries whose tokens are all there will do.
        """
        best: Match | None = None
        for entry in self._entries(key):
            n_common = common_prefix(entry.tokens, tokens)
            if n_common == 0 or len(entry.tokens) > most_tokens or (whole and n_common < len(entry.tokens)):
                continue
            rank = (n_common, -len(entry.tokens))
            if best is None or rank > (best.n_common, -len(best.entry.tokens)):
                best = Match(entry, n_common)
        return best

    def used(self, entry: Entry) -> None:
        """An entry was read: it shall be among the last to go."""
        with suppress(OSError):
            os.utime(entry.path)

    def drop(self, entry: Entry) -> None:
        """Remove a file that is of no use."""
        self._remove(entry.path)

    def make_room(self, n_bytes: int) -> bool:
        """Remove the least recently used files until one of `n_bytes` may be written; False: it never may.

        Raises:
            OSError: the folder cannot be made or looked at.
        """
        self._make_folder(self._folder)
        remove_leftovers(self._folder)
        found = sorted(stored_files(self._folder), key=lambda file: file.used_s)
        taken, free = sum(file.file_bytes for file in found), self._files.free_bytes(self._folder)
        limit = self._options.limit_bytes(free, taken)
        if n_bytes > limit or n_bytes > free + taken - _LEFT_FREE_BYTES:
            return False
        for file in found:
            if taken + n_bytes <= limit and free >= n_bytes + _LEFT_FREE_BYTES:
                break
            self._remove(file.path)
            taken, free = taken - file.file_bytes, free + file.file_bytes
        return True

    def begin(self, key: StateKey, tokens: Sequence[int]) -> Path:
        """Return an empty file, readable by its owner alone, for llama.cpp to write a state of `tokens` into.

        Raises:
            OSError: it cannot be made: this process is writing that very one, for example.
        """
        folder = self._folder / key.digest
        self._make_folder(folder)
        path = folder / f"{_digest(tokens)}.{os.getpid()}{_UNFINISHED}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return path

    def publish(self, unfinished: Path, record: EntryRecord) -> None:
        """Complete a file, wait until it is on the disk, and give it its name.

        Raises:
            BadEntry, OSError: it is not complete, or not to be completed; the file is as it was.
        """
        fd = self._files.open(unfinished)
        try:
            complete_state(fd, record)
            self._files.sync_data(fd)
        finally:
            os.close(fd)
        final = unfinished.with_name(unfinished.name.split(".", 1)[0] + _SUFFIX)
        self._files.rename(unfinished, final)
        self._files.sync_folder(final.parent)

    def abandon(self, unfinished: Path) -> None:
        """Remove a file that will not be completed."""
        self._remove(unfinished)

    def drop_parts(self, key: StateKey, tokens: Sequence[int]) -> None:
        """Remove the entries that `tokens`, which are stored now, make superfluous."""
        for entry in self._entries(key):
            if entry.path.stem != _digest(tokens) and entry.is_part_of(tokens):
                self._remove(entry.path)

    def _entries(self, key: StateKey) -> Iterator[Entry]:
        """Yield the entries of a key; files that are none are removed."""
        folder = self._folder / key.digest
        for file in sorted(_files_in(folder), key=lambda one: one.path):
            try:
                inode = file.path.stat().st_ino
                known = self._read.get(file.path)
                if known is None or known[0] != inode or known[1].file_bytes != file.file_bytes:
                    known = self._read[file.path] = inode, read_entry(file.path, key.digest)
                    if file.path.stem != _digest(known[1].tokens):
                        raise BadEntry("other tokens than its name says")
            except BadEntry:
                self._remove(file.path)
            except OSError:
                self._read.pop(file.path, None)
            else:
                yield known[1]

    def _remove(self, path: Path) -> None:
        self._read.pop(path, None)
        with suppress(OSError):
            self._files.remove(path)

    @staticmethod
    def _make_folder(folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)


def stored_files(folder: Path) -> list[StoredFile]:
    """Return the complete files of all keys; a folder that is not there holds none."""
    with suppress(OSError):
        return [file for inner in folder.iterdir() for file in _files_in(inner)]
    return []


def remove_leftovers(folder: Path) -> None:
    """Remove files that a process has left behind unfinished."""
    for path in folder.glob(f"*/*{_UNFINISHED}"):
        if not is_alive(path.name.split(".")[1]):
            with suppress(OSError):
                path.unlink()


def _files_in(folder: Path) -> list[StoredFile]:
    found = []
    with suppress(OSError):
        for item in os.scandir(folder):
            with suppress(OSError):
                if item.name.endswith(_SUFFIX) and item.is_file(follow_symlinks=False):
                    status = item.stat(follow_symlinks=False)
                    found.append(StoredFile(Path(item.path), status.st_size, status.st_mtime))
    return found


def _digest(tokens: Sequence[int]) -> str:
    return hashlib.sha256(array("i", tokens).tobytes()).hexdigest()[:32]
