"""One stored prefix: the file, written by llama.cpp and completed here, and all that is checked before it is used.

    state    "qsgg" (u32), version (u32), n (u32), n token ids (i32), the cells: llama_state_seq_save_file's own format
    record   JSON: an `EntryRecord`
    footer   length of the record (u32), its CRC-32 (u32), "qwenkv01"

All little endian. llama.cpp reads a state from the file's beginning and stops where it ends, so the rest may follow. It
trusts what it reads (counts become allocations, a mismatch an abort), so it gets no file whose size, numbers and
CRC-32 are not what the record says. That is against damage: whoever may write to this folder is the user.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import BinaryIO

from qwenctl.services.kv_slots import common_prefix

_MAGIC, _VERSION = 0x67677371, 3  # LLAMA_STATE_SEQ_MAGIC, LLAMA_STATE_SEQ_VERSION of llama.h
_HEAD = struct.Struct("<III")
_FOOTER = struct.Struct("<II8s")
_FOOTER_MAGIC = b"qwenkv01"
_MOST_RECORD_BYTES = 1 << 16
_PIECE_BYTES = 1 << 22


class BadEntry(Exception):
    """A file that is no entry, not a complete one, or of something else."""


@dataclass(frozen=True, slots=True)
class EntryRecord:
    """What a file says of itself.

    Raises:
        ValueError: a number that cannot be.
    """

    key: str  # StateKey.digest
    model: str
    n_tokens: int
    n_prompt: int  # of these, the ones that were asked; the others were generated
    state_bytes: int
    state_crc32: int
    token_s: float  # how prompts were computed: seconds a token, and for each token before it; see prefill_speed.py
    pair_s: float

    def __post_init__(self) -> None:
        counts = (self.n_tokens, self.n_prompt, self.state_bytes, self.state_crc32)
        if not all(type(count) is int for count in counts) or not all(0 <= rate < inf for rate in self.rates):
            raise ValueError("no numbers of a state")
        if not 1 <= self.n_prompt <= self.n_tokens or self.state_bytes < _HEAD.size + 4 * self.n_tokens:
            raise ValueError("a state shorter than its tokens")

    @property
    def rates(self) -> tuple[float, float]:
        """How prompts were computed."""
        return self.token_s, self.pair_s


@dataclass(frozen=True, slots=True)
class Entry:
    """A file whose record and tokens have been read; its cells have not."""

    path: Path
    record: EntryRecord
    tokens: Sequence[int]
    file_bytes: int

    def is_part_of(self, tokens: Sequence[int]) -> bool:
        """Return whether nothing of what was asked here is lost when `tokens` are stored: what was said to it may be.

        Reasoning is left out of the next turn's prompt, so that a turn seldom begins with all of the one before it.
        """
        return common_prefix(self.tokens, tokens) >= self.record.n_prompt


def read_entry(path: Path, key: str | None = None) -> Entry:
    """Read record and tokens of a file.

    Args:
        path: the file.
        key: what it must belong to; None: anything.

    Raises:
        BadEntry: it is not what it should be.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        file_bytes = os.fstat(file.fileno()).st_size
        record = _read_record(file, file_bytes)
        if key is not None and record.key != key:
            raise BadEntry("a state of something else")
        file.seek(0)
        if _HEAD.unpack(file.read(_HEAD.size)) != (_MAGIC, _VERSION, record.n_tokens):
            raise BadEntry("no state of llama.cpp's, or of another length")
        tokens = array("i")
        tokens.frombytes(file.read(4 * record.n_tokens))
    return Entry(path, record, tokens, file_bytes)


def check_state(entry: Entry) -> None:
    """Read the whole state, whose pages then are in memory for llama.cpp.

    Raises:
        BadEntry: it is not what was written.
        OSError: it cannot be read.
    """
    with entry.path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != entry.file_bytes:
            raise BadEntry("the file has changed")
        if _crc32(file, entry.record.state_bytes) != entry.record.state_crc32:
            raise BadEntry("the state is damaged")


def complete_state(fd: int, record: EntryRecord) -> None:
    """Append record and footer to what llama.cpp wrote; nothing is synced.

    Args:
        fd: of the file.
        record: with `state_crc32` still to be found.

    Raises:
        BadEntry: the file is not that long: the disk took less than was written.
        OSError: the record cannot be written.
    """
    if os.fstat(fd).st_size != record.state_bytes:
        raise BadEntry("llama.cpp wrote less than it says")
    with os.fdopen(os.dup(fd), "r+b") as file:
        file.seek(0)
        if _HEAD.unpack(file.read(_HEAD.size)) != (_MAGIC, _VERSION, record.n_tokens):
            raise BadEntry("llama.cpp writes another format")
        file.seek(0)
        whole = replace(record, state_crc32=_crc32(file, record.state_bytes))
        data = json.dumps(asdict(whole)).encode()
        file.seek(record.state_bytes)
        file.write(data + _FOOTER.pack(len(data), zlib.crc32(data), _FOOTER_MAGIC))


def _read_record(file: BinaryIO, file_bytes: int) -> EntryRecord:
    if file_bytes < _HEAD.size + _FOOTER.size:
        raise BadEntry("too short")
    file.seek(file_bytes - _FOOTER.size)
    length, crc32, magic = _FOOTER.unpack(file.read(_FOOTER.size))
    begin = file_bytes - _FOOTER.size - length
    if magic != _FOOTER_MAGIC or length > _MOST_RECORD_BYTES or begin < 0:
        raise BadEntry("no record at its end")
    file.seek(begin)
    data = file.read(length)
    if zlib.crc32(data) != crc32:
        raise BadEntry("the record is damaged")
    try:
        record = EntryRecord(**json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise BadEntry("the record makes no sense") from error
    if record.state_bytes != begin:
        raise BadEntry("of another length than its record says")
    return record


def _crc32(file: BinaryIO, n_bytes: int) -> int:
    crc32 = 0
    while n_bytes > 0 and (piece := file.read(min(n_bytes, _PIECE_BYTES))):
        crc32, n_bytes = zlib.crc32(piece, crc32), n_bytes - len(piece)
    return crc32
