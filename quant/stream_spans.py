"""Cut a conversion's source into what is fetched at once: spans of a few MiB, in the order of the files.

    a.safetensors   | header | span 0: units 7, 8 | span 1: unit 3 | unused | span 3 … |   every byte, once, in order

A unit of work makes one or more reads, each wholly in one span. Bytes that no unit needs are spans too: the file's hash
counts them. A hash that is taken where no unit goes on into the next span belongs to whole units. Pure; reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quant.errors import UnsupportedTensor
from quant.journal import ReadMark
from quant.source_tensor import SourceTensor
from quant.tensor_info import TensorInfo
from quant.work_slices import WorkSlice

SPAN_BYTES = 3 << 20
"""At least, but for the last one before a stretch that no unit needs: an expert of Qwen3-30B-A3B."""

MAX_STRETCH_BYTES = 512 << 20
"""From one place where no unit goes on to the next: what has to be read for one unit, and perhaps held in memory."""

_FETCH_WHOLE = "fetch the checkpoint whole, qwenctl pull --raw, then qwenctl convert it"


@dataclass(frozen=True, slots=True)
class Read:
    """Bytes that unit `number` reads at once."""

    path: Path
    first_byte: int
    after_byte: int
    number: int


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive bytes of one file.

    `units` holds the number of the unit of each read that lies in it. `ends_units`: none of them, nor of the file's
    spans before, reads anything behind it.
    """

    path: Path
    first_byte: int
    n_bytes: int
    units: tuple[int, ...] = ()
    ends_units: bool = True

    @property
    def after_byte(self) -> int:
        """Where the next one begins."""
        return self.first_byte + self.n_bytes


def rows_read(info: SourceTensor, first_row: int, n_rows: int, number: int) -> Read:
    """Return what unit `number` reads to get rows of a tensor.

    Raises:
        UnsupportedTensor: they are computed from several places (AWQ, GPTQ).
    """
    if not isinstance(info, TensorInfo):
        raise UnsupportedTensor(
            f"{info.path.name}: {info.name} is packed ({info.dtype}): its parts lie apart, so it cannot be converted "
            "while it is downloaded",
            _FETCH_WHOLE,
        )
    row_bytes = info.n_bytes // info.n_rows
    first = info.offset_bytes + first_row * row_bytes
    return Read(info.path, first, first + n_rows * row_bytes, number)


def slice_reads(slices: Sequence[WorkSlice]) -> Iterator[Read]:
    """Yield what the slices of a conversion read.

    Raises:
        UnsupportedTensor: see `rows_read`.
    """
    for number, work in enumerate(slices):
        yield rows_read(work.source.info, work.source.first_row, work.source.n_rows, number)


def cut_spans(reads: Iterable[Read], sizes: Mapping[Path, int], headers: Mapping[Path, int]) -> tuple[Span, ...]:
    """Return the spans of all files that are read from, files by name.

    Args:
        reads: of all units.
        sizes: bytes of each of those files.
        headers: of these, those before the first tensor, which are a span of their own.

    Raises:
        UnsupportedTensor: too much lies between two places where no unit goes on.
    """
    of_file: dict[Path, list[Read]] = {}
    for read in reads:
        of_file.setdefault(read.path, []).append(read)
    spans: list[Span] = []
    for path in sorted(of_file):
        found = sorted(of_file[path], key=lambda read: (read.first_byte, read.after_byte))
        last: dict[int, int] = {}
        for read in found:
            last[read.number] = max(last.get(read.number, 0), read.after_byte)
        grouped = _grouped(path, _with_gaps(found, headers[path], sizes[path]), last)
        spans += [Span(path, 0, headers[path]), *grouped]
    _refuse_long(spans)
    return tuple(spans)


def spans_left(spans: Sequence[Span], marks: Mapping[str, ReadMark]) -> tuple[Span, ...]:
    """Return the spans that come after the marks, by name of the file.

    A mark that is not where units end was made by another division: its file is begun again.
    """
    ends = {(span.path.name, span.after_byte) for span in spans if span.ends_units}
    after = {name: mark.n_bytes for name, mark in marks.items() if (name, mark.n_bytes) in ends}
    return tuple(span for span in spans if span.first_byte >= after.get(span.path.name, 0))


def longest_stretch(spans: Sequence[Span]) -> int:
    """Return the bytes of the longest run of spans of which only the last ends its units."""
    longest = length = 0
    for span in spans:
        length += span.n_bytes
        longest = max(longest, length)
        length = 0 if span.ends_units else length
    return longest


def _with_gaps(reads: Sequence[Read], first_byte: int, size_bytes: int) -> Iterator[tuple[int, int, int | None]]:
    """Yield (first byte, the one after the last, number) of the reads, and without a number what lies between."""
    position = first_byte
    for first, after, number in (*((r.first_byte, r.after_byte, r.number) for r in reads), (size_bytes, 0, None)):
        while position < first:
            piece_end = min(first, position + SPAN_BYTES)
            yield position, piece_end, None
            position = piece_end
        if number is not None:
            yield first, after, number
            position = max(position, after)


def _grouped(path: Path, items: Iterable[tuple[int, int, int | None]], last: Mapping[int, int]) -> Iterator[Span]:
    """Join items until they are a span; those that overlap stay together.

    A span also ends where no unit goes on, even a short one: otherwise the end of one unit shares its span with the
    beginning of the next, and so on through the whole file.

    Args:
        path: the file.
        items: reads with their numbers, and what lies between.
        last: the byte after the last that a unit reads.
    """
    numbers: list[int] = []
    first = after = begin = -1  # begin: where no unit went on, before `first`
    open_until = 0
    for item_first, item_after, number in items:
        ends_units = open_until <= after
        if first >= 0 and item_first >= after and after - (begin if ends_units else first) >= SPAN_BYTES:
            yield Span(path, first, after - first, tuple(numbers), ends_units)
            numbers, first = [], -1
            begin = -1 if ends_units else begin
        if first < 0:
            first = after = item_first
            begin = first if begin < 0 else begin
        after = max(after, item_after)
        if number is not None:
            numbers.append(number)
            open_until = max(open_until, last[number])
    if first >= 0:
        yield Span(path, first, after - first, tuple(numbers))


def _refuse_long(spans: Sequence[Span]) -> None:
    if longest_stretch(spans) > MAX_STRETCH_BYTES:
        raise UnsupportedTensor(
            f"{longest_stretch(spans):,} bytes would have to be read for one piece of work, and at most "
            f"{MAX_STRETCH_BYTES:,} are held in memory",
            _FETCH_WHOLE,
        )
