"""Cut a conversion's source into what is fetched at once: spans of a few MiB, in the order of the files.

    a.safetensors   | header | span 0: slices 7, 8 | span 1: slice 3 | unused | span 3 … |   every byte, once, in order

A slice lies wholly in one span, so a span that was read can be encoded, and a hash taken at the end of a span belongs
to whole slices. Bytes that no slice needs are spans too: the file's hash counts them. Pure; reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quant.errors import UnsupportedTensor
from quant.journal import ReadMark
from quant.tensor_info import TensorInfo
from quant.work_slices import WorkSlice

SPAN_BYTES = 3 << 20
"""At least, but for the last one before a stretch that no slice needs: an expert of Qwen3-30B-A3B."""

MAX_SPAN_BYTES = 32 << 20
"""Slices of up to two million weights, 8 MiB, never come near it."""


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive bytes of one file, and the numbers of the slices that are read from them."""

    path: Path
    first_byte: int
    n_bytes: int
    slices: tuple[int, ...] = ()

    @property
    def after_byte(self) -> int:
        """Where the next one begins."""
        return self.first_byte + self.n_bytes


@dataclass(frozen=True, slots=True)
class _Item:
    """Bytes that are not to be divided; of a slice, or of none."""

    first_byte: int
    after_byte: int
    number: int | None = None


def cut_spans(slices: Sequence[WorkSlice], sizes: Mapping[Path, int], headers: Mapping[Path, int]) -> tuple[Span, ...]:
    """Return the spans of all files that slices are read from, files by name.

    Args:
        slices: of the plan.
        sizes: bytes of each of those files.
        headers: of these, those before the first tensor, which are a span of their own.

    Raises:
        UnsupportedTensor: weights that are computed from several places (AWQ, GPTQ), or read by more than one target.
    """
    reads: dict[Path, list[_Item]] = {}
    for number, work in enumerate(slices):
        path, item = _read_by(number, work)
        reads.setdefault(path, []).append(item)
    return tuple(
        span
        for path in sorted(reads)
        for span in (
            Span(path, 0, headers[path]),
            *_grouped(path, _with_gaps(sorted(reads[path], key=_order), headers[path], sizes[path])),
        )
    )


def spans_left(spans: Sequence[Span], marks: Mapping[str, ReadMark]) -> tuple[Span, ...]:
    """Return the spans that come after the marks, by name of the file.

    A mark that is not at the end of a span was made by another division: its file is begun again.
    """
    ends = {(span.path.name, span.after_byte) for span in spans}
    after = {name: mark.n_bytes for name, mark in marks.items() if (name, mark.n_bytes) in ends}
    return tuple(span for span in spans if span.first_byte >= after.get(span.path.name, 0))


def _read_by(number: int, work: WorkSlice) -> tuple[Path, _Item]:
    info = work.source.info
    if not isinstance(info, TensorInfo):
        raise UnsupportedTensor(
            f"{info.path.name}: {info.name} is packed ({info.dtype}): its parts lie apart, so it cannot be converted "
            "while it is downloaded",
            "fetch the checkpoint whole, qwenctl pull --raw, then qwenctl convert it",
        )
    row_bytes = info.n_bytes // info.n_rows
    first = info.offset_bytes + work.source.first_row * row_bytes
    return info.path, _Item(first, first + work.source.n_rows * row_bytes, number)


def _order(item: _Item) -> tuple[int, int]:
    return item.first_byte, item.after_byte


def _with_gaps(items: Sequence[_Item], first_byte: int, size_bytes: int) -> Iterator[_Item]:
    """Yield the slices' items with what lies between, in pieces."""
    position = first_byte
    for item in (*items, _Item(size_bytes, size_bytes)):
        while position < item.first_byte:
            after = min(item.first_byte, position + SPAN_BYTES)
            yield _Item(position, after)
            position = after
        if item.number is not None:
            yield item
        position = max(position, item.after_byte)


def _grouped(path: Path, items: Iterator[_Item]) -> Iterator[Span]:
    """Join items until they are a span; those that overlap stay together."""
    numbers: list[int] = []
    first = after = -1
    for item in items:
        if first >= 0 and item.first_byte >= after and after - first >= SPAN_BYTES:
            yield _span(path, first, after, numbers)
            numbers, first = [], -1
        if first < 0:
            first = after = item.first_byte
        after = max(after, item.after_byte)
        numbers += [] if item.number is None else [item.number]
    if first >= 0:
        yield _span(path, first, after, numbers)


def _span(path: Path, first: int, after: int, numbers: Sequence[int]) -> Span:
    if after - first > MAX_SPAN_BYTES:
        raise UnsupportedTensor(
            f"{path.name}: bytes {first:,} to {after:,} are read by several tensors, so they cannot be converted while "
            "they are downloaded",
            "fetch the checkpoint whole, qwenctl pull --raw, then qwenctl convert it",
        )
    return Span(path, first, after - first, tuple(numbers))
