"""Spans cover every byte of every file once, in order, and each slice lies in one of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from quant import stream_spans
from quant.errors import UnsupportedTensor
from quant.journal import ReadMark
from quant.stream_spans import Span, cut_spans, spans_left
from quant.tensor_info import TensorInfo
from quant.tensor_names import SourceRows
from quant.work_slices import WorkSlice

A, B = Path("a.safetensors"), Path("b.safetensors")


def work(path: Path, first_byte: int, n_bytes: int, first_row: int = 0) -> WorkSlice:
    """A slice of `n_bytes` of BF16 rows of 2 bytes each, beginning at `first_byte`."""
    info = TensorInfo("w", "BF16", (1 << 40, 1), path, first_byte - 2 * first_row, 2 << 40)
    return WorkSlice(0, 0, SourceRows(info, first_row, n_bytes // 2), 0, 1)


def check(spans: tuple[Span, ...], slices: list[WorkSlice], sizes: dict[Path, int]) -> None:
    assert [span.path for span in spans] == sorted(span.path for span in spans)
    for path, size in sizes.items():
        mine = [span for span in spans if span.path == path]
        assert [span.first_byte for span in mine] == [0, *(span.after_byte for span in mine[:-1])]
        assert mine[-1].after_byte == size
    found = [number for span in spans for number in span.slices]
    assert sorted(found) == list(range(len(slices)))
    for span in spans:
        for number in span.slices:
            source = slices[number].source
            first = source.info.offset_bytes + 2 * source.first_row  # type: ignore[union-attr]
            assert span.first_byte <= first < first + 2 * source.n_rows <= span.after_byte


def test_small_slices_share_a_span_and_the_header_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_spans, "SPAN_BYTES", 100)
    slices = [work(A, 200, 60), work(A, 10, 60), work(A, 70, 60), work(A, 130, 70)]
    spans = cut_spans(slices, {A: 260}, {A: 10})
    check(spans, slices, {A: 260})
    assert [(span.first_byte, span.n_bytes, span.slices) for span in spans] == [
        (0, 10, ()), (10, 120, (1, 2)), (130, 130, (3, 0)),
    ]  # fmt: skip


def test_bytes_that_nothing_needs_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_spans, "SPAN_BYTES", 100)
    slices = [work(A, 400, 100)]
    spans = cut_spans(slices, {A: 1000}, {A: 10})
    check(spans, slices, {A: 1000})
    assert max(span.n_bytes for span in spans) <= 200


def test_overlapping_reads_stay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_spans, "SPAN_BYTES", 100)
    slices = [work(A, 10, 100), work(A, 60, 100), work(A, 160, 100)]
    spans = cut_spans(slices, {A: 260}, {A: 10})
    check(spans, slices, {A: 260})
    assert spans[1].slices == (0, 1)


def test_many_random_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_spans, "SPAN_BYTES", 64)
    chance = random.Random(3)
    for _ in range(200):
        slices, sizes, headers = [], {}, {}
        for path in (A, B):
            position = headers[path] = 8 + 2 * chance.randrange(50)
            for _ in range(chance.randrange(1, 20)):
                position += chance.choice([0, 0, 0, 2 * chance.randrange(200)])
                n_bytes = 2 * chance.randrange(1, 100)
                slices.append(work(path, position, n_bytes, chance.randrange(5)))
                position += n_bytes
            sizes[path] = position + chance.choice([0, 300])
        chance.shuffle(slices)
        check(cut_spans(slices, sizes, headers), slices, sizes)


def test_reads_of_one_place_by_many_are_refused() -> None:
    slices = [work(A, 10, 20 << 20), work(A, 20, 20 << 20), work(A, 15 << 20, 30 << 20)]
    with pytest.raises(UnsupportedTensor, match=r"a\.safetensors: bytes 10 to .* read by several tensors") as error:
        cut_spans(slices, {A: 64 << 20}, {A: 10})
    assert "pull --raw" in str(error.value.hint)


def test_what_is_left_begins_behind_the_marks() -> None:
    spans = (Span(A, 0, 10), Span(A, 10, 90, (0,)), Span(A, 100, 50, (1,)), Span(B, 0, 10), Span(B, 10, 90, (2,)))
    assert spans_left(spans, {}) == spans
    assert spans_left(spans, {A.name: ReadMark(100, "x")}) == spans[2:]
    assert spans_left(spans, {A.name: ReadMark(150, "x"), B.name: ReadMark(0)}) == spans[3:]
    assert spans_left(spans, {A.name: ReadMark(150, "x"), B.name: ReadMark(100, "x")}) == ()


def test_a_mark_inside_a_span_does_not_count() -> None:
    spans = (Span(A, 0, 10), Span(A, 10, 90, (0,)))
    assert spans_left(spans, {A.name: ReadMark(50, "x")}) == spans
