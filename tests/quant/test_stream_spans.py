"""Spans cover every byte of every file once, in order, and each slice lies in one of them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from quant import stream_spans
from quant.errors import UnsupportedTensor
from quant.journal import ReadMark
from quant.stream_spans import Read, Span, cut_spans, longest_stretch, slice_reads, spans_left
from quant.tensor_info import TensorInfo
from quant.tensor_names import SourceRows
from quant.work_slices import WorkSlice

A, B = Path("a.safetensors"), Path("b.safetensors")


def read(path: Path, first_byte: int, n_bytes: int, number: int = 0) -> Read:
    return Read(path, first_byte, first_byte + n_bytes, number)


def numbered(reads: list[Read]) -> list[Read]:
    """One unit a read."""
    return [replace(one, number=number) for number, one in enumerate(reads)]


def check(spans: tuple[Span, ...], reads: list[Read], sizes: dict[Path, int]) -> None:
    assert [span.path for span in spans] == sorted(span.path for span in spans)
    for path, size in sizes.items():
        mine = [span for span in spans if span.path == path]
        assert [span.first_byte for span in mine] == [0, *(span.after_byte for span in mine[:-1])]
        assert mine[-1].after_byte == size
        for span in mine:
            goes_on = [r for r in reads if r.path == path and r.after_byte > span.after_byte]
            begun = {r.number for r in reads if r.path == path and r.first_byte < span.after_byte}
            assert span.ends_units == (not begun & {r.number for r in goes_on})
    assert sorted(number for span in spans for number in span.units) == sorted(one.number for one in reads)
    for one in reads:
        (span,) = (s for s in spans if s.path == one.path and s.first_byte <= one.first_byte < s.after_byte)
        assert one.number in span.units
        assert one.after_byte <= span.after_byte


def test_small_slices_share_a_span_and_the_header_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_spans, "SPAN_BYTES", 100)
    reads = numbered([read(A, 200, 60), read(A, 10, 60), read(A, 70, 60), read(A, 130, 70)])
    spans = cut_spans(reads, {A: 260}, {A: 10})
    check(spans, reads, {A: 260})
    assert [(span.first_byte, span.n_bytes, span.units) for span in spans] == [
        (0, 10, ()), (10, 120, (1, 2)), (130, 130, (3, 0)),
    ]  # fmt: skip


def test_bytes_that_nothing_needs_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_spans, "SPAN_BYTES", 100)
    reads = numbered([read(A, 400, 100)])
    spans = cut_spans(reads, {A: 1000}, {A: 10})
    check(spans, reads, {A: 1000})
    assert max(span.n_bytes for span in spans) <= 200


def test_overlapping_reads_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_spans, "SPAN_BYTES", 100)
    reads = numbered([read(A, 10, 100), read(A, 60, 100), read(A, 160, 100)])
    spans = cut_spans(reads, {A: 260}, {A: 10})
    check(spans, reads, {A: 260})
    assert spans[1].units == (0, 1)


def test_many_random_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_spans, "SPAN_BYTES", 64)
    chance = random.Random(3)
    for _ in range(200):
        reads, sizes, headers = [], {}, {}
        for path in (A, B):
            position = headers[path] = 8 + 2 * chance.randrange(50)
            for _ in range(chance.randrange(1, 20)):
                position += chance.choice([0, 0, 0, 2 * chance.randrange(200)])
                n_bytes = 2 * chance.randrange(1, 100)
                reads.append(read(path, position, n_bytes, chance.choice([len(reads), max(0, len(reads) - 1)])))
                position += n_bytes
            sizes[path] = position + chance.choice([0, 300])
        chance.shuffle(reads)
        check(cut_spans(reads, sizes, headers), reads, sizes)


def test_units_too_long_for_memory_are_refused() -> None:
    reads = [read(A, 10 + n * (64 << 20), 64 << 20, n // 9) for n in range(9)]
    with pytest.raises(UnsupportedTensor, match="603,979,776 bytes would have to be read") as error:
        cut_spans(reads, {A: 10 + 9 * (64 << 20)}, {A: 10})
    assert "pull --raw" in str(error.value.hint)
    assert len(cut_spans(numbered(reads), {A: 10 + 9 * (64 << 20)}, {A: 10})) == 10


def test_units_of_several_reads_do_not_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of seven reads, the last a short one, as down_proj of Qwen3-235B-A22B has."""
    monkeypatch.setattr(stream_spans, "SPAN_BYTES", 100)
    reads, position = [], 10
    for number in range(50):
        for n_bytes in (70, 70, 70, 70, 70, 70, 6):
            reads.append(read(A, position, n_bytes, number))
            position += n_bytes
    spans = cut_spans(reads, {A: position}, {A: 10})
    check(spans, reads, {A: position})
    assert longest_stretch(spans) == 6 * 70 + 6
    assert sum(span.ends_units for span in spans) == 51


def test_a_slice_reads_its_rows() -> None:
    info = TensorInfo("w", "BF16", (4, 10, 8), A, 100, 640)
    assert [*slice_reads([WorkSlice(0, 0, SourceRows(info, 12, 3), 0, 1)])] == [
        Read(A, 100 + 12 * 16, 100 + 15 * 16, 0)
    ]


def test_what_is_left_begins_behind_the_marks() -> None:
    spans = (Span(A, 0, 10), Span(A, 10, 90, (0,)), Span(A, 100, 50, (1,)), Span(B, 0, 10), Span(B, 10, 90, (2,)))
    assert spans_left(spans, {}) == spans
    assert spans_left(spans, {A.name: ReadMark(100, "x")}) == spans[2:]
    assert spans_left(spans, {A.name: ReadMark(150, "x"), B.name: ReadMark(0)}) == spans[3:]
    assert spans_left(spans, {A.name: ReadMark(150, "x"), B.name: ReadMark(100, "x")}) == ()


def test_a_mark_where_a_unit_goes_on_does_not_count() -> None:
    spans = (Span(A, 0, 10), Span(A, 10, 90, (0,), ends_units=False), Span(A, 100, 50, (0,)))
    assert spans_left(spans, {A.name: ReadMark(100, "x")}) == spans


def test_a_mark_inside_a_span_does_not_count() -> None:
    spans = (Span(A, 0, 10), Span(A, 10, 90, (0,)))
    assert spans_left(spans, {A.name: ReadMark(50, "x")}) == spans
