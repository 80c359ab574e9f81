"""Routing traces as files: which experts every token of a run was sent to, one record a MoE layer of a computed batch.

    offset  bytes  header, little-endian throughout
         0      8  "QWROUTE\\n"
         8      2  version of this layout: 2
        10      2  N, bytes of the model's name
        12      4  n_layers   blocks of the model, those without experts included
        16      4  n_experts  of each MoE layer, at most 65,535
        20      2  n_used     experts that each token is sent to
        22      1  W, bytes of an id: 1 up to 256 experts, else 2
        23      1  0
        24      N  the model's name, UTF-8

                   record, appended for each MoE layer of each computed batch, in the order they were computed
         0      2  layer      0 … n_layers - 1
         2      4  n_tokens   of the batch: 1 when one sequence generates; at most 2^20
         6      2  n_row      ids of each token: n_used … n_experts
         8      …  n_tokens × n_row ids of W bytes, token after token: the routed experts, then, where that is known,
                   those that the router liked less, in its order

A record has no end mark: whoever dies while writing leaves a file whose last record is short, and that one is ignored.
Version 1 has no n_row (it is n_used); it is still read. A token of Qwen3-235B-A22B (94 layers, 8 of 128 experts) takes
1,504 bytes, 12,784 with the ranking.

No text and no tokens are stored, and nothing is sent anywhere. Still, routing follows from the text: somebody with the
same model could test guesses at it, so a trace of private prompts is better kept private too.
Knows nothing of where routing comes from (services/routing_capture.py) or what it is good for (routing_counts.py).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.telemetry.routing_steps import RoutingStep, RoutingTrace

MAGIC = b"QWROUTE\n"
VERSION = 2

_HEADER = struct.Struct("<8sHHIIHBx")
_RECORDS = {1: struct.Struct("<HI"), 2: struct.Struct("<HIH")}  # by version
_MOST_LAYERS, _MOST_EXPERTS, _MOST_TOKENS, _MOST_NAME_BYTES = 1 << 16, (1 << 16) - 1, 1 << 20, 1024
_BLOCK_BYTES = 1 << 16  # collected before the file is written to


# Takes one MoE layer of one computed batch: layer, ids, n_tokens, n_row. `TraceWriter.record` is one.
RoutingSink = Callable[[int, Sequence[int], int, int], None]


@dataclass(frozen=True, slots=True)
class TraceHeader:
    """Whose routing it is.

    Raises:
        ValueError: no MoE model has such a shape, or the format has no room for it.
    """

    model: str  # as general.name says
    n_layers: int
    n_experts: int
    n_used: int

    def __post_init__(self) -> None:
        if not (1 <= self.n_layers <= _MOST_LAYERS and 1 <= self.n_used <= self.n_experts <= _MOST_EXPERTS):
            raise ValueError(f"no such model: {self.n_layers} layers, {self.n_used} of {self.n_experts} experts")

    @property
    def id_bytes(self) -> int:
        """Bytes that a stored id takes."""
        return 1 if self.n_experts <= 256 else 2


class TraceWriter:
    """A trace file that is being written; one thread at a time. A context manager.

    Args:
        path: an earlier trace of that name is replaced; any other file is left alone.
        header: whose routing it is.

    Raises:
        InvalidRequest: the file cannot be made, or holds something else.
    """

    def __init__(self, path: Path, header: TraceHeader) -> None:
        self.path = path
        self.header = header
        self._n_used, self._id_bytes = header.n_used, header.id_bytes
        self._pack_record: Callable[[int, int, int], bytes] = _RECORDS[VERSION].pack
        self._pending = bytearray()
        self._problem: OSError | None = None
        try:
            if path.is_file() and path.stat().st_size and not _begins_as_trace(path):
                raise InvalidRequest(f"{path} holds something else than a routing trace", "name another file")
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise InvalidRequest(f"cannot write {path}: {error.strerror}") from error
        self._pending += _encode(header)
        self.flush()

    def record(self, layer: int, ids: Sequence[int], n_tokens: int, n_row: int) -> None:
        """Append one MoE layer of one computed batch. Takes about a microsecond; never raises for a full disk.

        Args:
            layer: the model's block number.
            ids: n_tokens × n_row expert numbers, token after token, the routed ones first in each row.
            n_tokens: tokens in the batch.
            n_row: ids of each token; the header's n_used, or more.

        Raises:
            ValueError: the numbers do not fit each other. Layer and ids are held against the header by the reader only.
        """
        if not self._n_used <= n_row <= self.header.n_experts or len(ids) != n_tokens * n_row or not ids:
            raise ValueError(f"layer {layer}: {len(ids)} ids for {n_tokens} tokens x {n_row}")
        packed = bytes(ids) if self._id_bytes == 1 else struct.pack(f"<{len(ids)}H", *ids)
        pending = self._pending
        pending += self._pack_record(layer, n_tokens, n_row)
        pending += packed
        if len(pending) >= _BLOCK_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system. A failure is kept for `close`; what follows is dropped."""
        pending, self._pending = self._pending, bytearray()
        if self._problem is not None:
            return
        try:
            rest = memoryview(pending)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._problem = error

    def close(self) -> None:
        """Finish the file.

        Raises:
            QwenctlError: some of it could not be written; what was written before can be read.
        """
        if self._file.closed:
            return
        self.flush()
        try:
            self._file.close()
        except OSError as error:
            self._problem = self._problem or error
        if self._problem is not None:
            raise QwenctlError(f"cannot write {self.path}: {self._problem.strerror}") from self._problem

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TraceReader:
    """A trace file, read into memory and checked.

    Raises:
        InvalidRequest: missing, unreadable, no trace, of a later version, or damaged in its header.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._data = path.read_bytes()
        except OSError as error:
            raise InvalidRequest(f"cannot read {path}: {error.strerror}") from error
        self.header, self._version, self._first = _decode(path, self._data)
        self.n_cut_bytes = 0  # of an incomplete last record; known when `steps` has come to its end

    def steps(self) -> Iterator[RoutingStep]:
        """Yield the records in order; an incomplete last one is left out.

        Raises:
            InvalidRequest: a record that cannot be; the message says where it lies.
        """
        data, at, header = self._data, self._first, self.header
        n_used, width, letter = header.n_used, header.id_bytes, "BH"[header.id_bytes - 1]
        record = _RECORDS[self._version]
        while at + record.size <= len(data):
            layer, n_tokens, n_row = (*record.unpack_from(data, at), n_used)[:3]
            if layer >= header.n_layers or not 1 <= n_tokens <= _MOST_TOKENS:
                raise self._damage(at, f"layer {layer}, {n_tokens} tokens")
            if not n_used <= n_row <= header.n_experts:
                raise self._damage(at, f"{n_row} ids a token")
            begin, n_ids = at + record.size, n_tokens * n_row
            if begin + n_ids * width > len(data):
                break
            ids = struct.unpack_from(f"<{n_ids}{letter}", data, begin)
            if max(ids) >= header.n_experts:
                raise self._damage(at, f"expert {max(ids)} of {header.n_experts}")
            yield RoutingStep.of(layer, ids, n_tokens, n_used)
            at = begin + n_ids * width
        self.n_cut_bytes = len(data) - at

    def read(self) -> RoutingTrace:
        """Return the whole trace.

        Raises:
            InvalidRequest: see `steps`.
        """
        return RoutingTrace(self.header.n_layers, self.header.n_experts, self.header.n_used, tuple(self.steps()))

    def _damage(self, at: int, what: str) -> InvalidRequest:
        return InvalidRequest(f"{self.path} is damaged: the record at byte {at:,} says {what}", "record it again")


def _begins_as_trace(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _encode(header: TraceHeader) -> bytes:
    name = header.model.encode("utf-8", "replace")[:_MOST_NAME_BYTES].decode("utf-8", "ignore").encode()
    shape = header.n_layers, header.n_experts, header.n_used, header.id_bytes
    return _HEADER.pack(MAGIC, VERSION, len(name), *shape) + name


def _decode(path: Path, data: bytes) -> tuple[TraceHeader, int, int]:
    """Return the header, the version and the offset of the first record."""
    if not data.startswith(MAGIC):
        raise InvalidRequest(f"{path} is no routing trace", "qwenctl experts MODEL --trace FILE records one")
    if len(data) < _HEADER.size:
        raise InvalidRequest(f"{path} ends within its header, after {len(data)} bytes", "record it again")
    _, version, n_name_bytes, n_layers, n_experts, n_used, id_bytes = _HEADER.unpack_from(data)
    if version not in _RECORDS:
        raise InvalidRequest(f"{path} is a routing trace of version {version}; this program reads up to {VERSION}")
    end = _HEADER.size + n_name_bytes
    if len(data) < end:
        raise InvalidRequest(f"{path} ends within its header, after {len(data)} bytes", "record it again")
    try:
        header = TraceHeader(data[_HEADER.size : end].decode(), n_layers, n_experts, n_used)
        if id_bytes != header.id_bytes:
            raise ValueError(f"ids of {id_bytes} bytes for {n_experts} experts")
    except ValueError as error:
        what = "its model's name is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise InvalidRequest(f"{path} is damaged: {what}", "record it again") from error
    return header, version, end
