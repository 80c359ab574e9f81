"""The resume file of a conversion: which slices of the output lie on the disk, and under which settings they were made.

Append-only text, one record a line: the CRC-32 of the rest of the line in eight hexadecimal digits, a space, JSON.

    4c2f0b1e {"journal":1,"identity":{"output type":"q4_k_m", …}}      first, once
    91ab03d7 {"process":4711}                                         who writes now; again at each resume
    0e77c1f4 {"first":0,"crc32":[3735928559,12648430]}                consecutive finished slices, already synced
    5b1d99e0 {"read":"a.safetensors","n_bytes":8,"hash":"6a09e667…"}  a file of the source: how far it was read
    7d21a9c0 {"ready":123456}                                         inode of the complete file, about to be renamed

Whatever follows the first line that is torn or damaged does not count and is cut off before more is written. The file
is locked while a process works on the output. Knows nothing of what a slice is or what the identity means.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quant.durable_files import DurableFiles, try_lock
from quant.errors import OutputBusy, ResumeRefused

_VERSION = 1
_CRC_CHARS = 8
_N_NAMED = 3  # differences in an error; the rest are counted


@dataclass(frozen=True, slots=True)
class ReadMark:
    """How far a source's file was read in order; all slices before that are done.

    `hash_state` is what hashing goes on from, empty at 0 bytes; at the end of the file, its digest. In hexadecimal.
    """

    n_bytes: int
    hash_state: str = ""


@dataclass(slots=True)
class JournalState:
    """What the sound lines of a journal say."""

    identity: Mapping[str, str] | None = None  # None: no usable first line
    process: int | None = None
    done: dict[int, int] = field(default_factory=dict)  # slice → CRC-32 of its bytes
    read: dict[str, ReadMark] = field(default_factory=dict)  # by name of the source's file
    ready_inode: int | None = None
    n_sound_bytes: int = 0


def read_state(data: bytes) -> JournalState:
    """Return what `data` records, up to the first torn or damaged line."""
    state = JournalState()
    for line in data.splitlines(keepends=True):
        record = _parse_line(line)
        if record is None or not _apply(state, record):
            break
        state.n_sound_bytes += len(line)
    return state


def _format_line(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse_line(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    text = line[_CRC_CHARS + 1 : -1]
    if line[: _CRC_CHARS + 1] != b"%08x " % zlib.crc32(text):
        return None
    record: dict[str, Any] = json.loads(text)  # the checksum holds, so we wrote it
    return record


def _apply(state: JournalState, record: Mapping[str, Any]) -> bool:
    """Add one record; False if it is not of this version."""
    if state.identity is None:
        if record.get("journal") == _VERSION:
            state.identity = record["identity"]
        return state.identity is not None
    if "process" in record:
        state.process = record["process"]
    elif "crc32" in record:
        state.done.update(enumerate(record["crc32"], start=record["first"]))
    elif "read" in record:
        state.read[record["read"]] = ReadMark(record["n_bytes"], record["hash"])
    elif "ready" in record:
        state.ready_inode = record["ready"]
    return True


class Journal:
    """An open, locked journal. `state` is what it said when it was opened, kept up to date.

    Args:
        path: the journal; made if missing.
        files: how to write.

    Raises:
        OutputBusy: another process holds the lock.
    """

    def __init__(self, path: Path, files: DurableFiles) -> None:
        self.path = path
        self._files = files
        self._fd = self._open_locked()
        self.state = read_state(_read_all(self._fd))

    def _open_locked(self) -> int:
        while True:
            fd = self._files.open(self.path)
            try:
                self._lock(fd)
                if _is_still(fd, self.path):  # the process before us may have removed it while we opened it
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _lock(self, fd: int) -> None:
        if not try_lock(fd):
            process = read_state(_read_all(fd)).process
            raise OutputBusy(
                f"process {process or 'unknown'} is writing this output (it holds {self.path})",
                "wait for it, or stop it: what it has done is kept",
            )

    def clear(self) -> None:
        """Forget everything. To be called before the partial file is touched that the journal speaks of."""
        self._files.truncate(self._fd, 0)
        self._files.sync_data(self._fd)
        self.state = JournalState()

    def start(self, identity: Mapping[str, str]) -> None:
        """Begin a journal for `identity`, once the partial file has its length."""
        self.clear()
        self.state = JournalState(identity=dict(identity), process=os.getpid())
        header = {"journal": _VERSION, "identity": dict(identity)}
        self._write(_format_line(header) + _format_line({"process": os.getpid()}))

    def refuse_other(self, identity: Mapping[str, str]) -> None:
        """Raise if this journal was made under another identity.

        Raises:
            ResumeRefused: the message says what differs.
        """
        differences = describe_differences(self.state.identity or {}, identity)
        if differences:
            more = f"; and {len(differences) - _N_NAMED} more" if len(differences) > _N_NAMED else ""
            raise ResumeRefused(
                f"{self.path} belongs to unfinished work that differs: {'; '.join(differences[:_N_NAMED])}{more}",
                "--restart discards it and starts over",
            )

    def resume(self) -> None:
        """Go on with this journal, after its torn end was cut off."""
        self._files.truncate(self._fd, self.state.n_sound_bytes)
        self._write(_format_line({"process": os.getpid()}))

    def record_done(self, finished: Iterable[tuple[int, int]], read: Mapping[str, ReadMark] | None = None) -> None:
        """Record slices, (number, CRC-32), whose bytes are on the disk already, and how far the source was read."""
        slices, read = sorted(finished), read or {}
        lines = [_format_line({"first": first, "crc32": crcs}) for first, crcs in _runs(slices)]
        lines += [
            _format_line({"read": name, "n_bytes": mark.n_bytes, "hash": mark.hash_state})
            for name, mark in read.items()
        ]
        if lines:
            self._write(b"".join(lines))
            self.state.done.update(slices)
            self.state.read.update(read)

    def record_ready(self, inode: int) -> None:
        """Record that the file with this inode is complete and synced, and will now get its final name."""
        self._write(_format_line({"ready": inode}))

    def _write(self, lines: bytes) -> None:
        """Write behind the last sound line, over whatever a failed write may have left there."""
        self._files.write_at(self._fd, memoryview(lines), self.state.n_sound_bytes)
        self._files.sync_data(self._fd)
        self.state.n_sound_bytes += len(lines)

    def remove(self) -> None:
        """Remove the file; the lock is held until `close`."""
        self._files.remove(self.path)

    def close(self) -> None:
        """Close the file and give the lock back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def describe_differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Say what differs between two identities, one short phrase each."""
    phrases = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            phrases.append(f"{name} {'is new' if old is None else 'is gone'}")
        elif old != new:
            phrases.append(f"{name} was {old}, is {new}")
    return phrases


def _runs(finished: list[tuple[int, int]]) -> Iterable[tuple[int, list[int]]]:
    """Join consecutive slices: [(0, a), (1, b), (5, c)] → (0, [a, b]), (5, [c])."""
    first, crcs = 0, list[int]()
    for number, crc in finished:
        if crcs and number != first + len(crcs):
            yield first, crcs
            crcs = []
        if not crcs:
            first = number
        crcs.append(crc)
    if crcs:
        yield first, crcs


def _read_all(fd: int) -> bytes:
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        return file.read()


def _is_still(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
