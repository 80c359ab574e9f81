"""Routing traces as files: what is written is read, a cut tail costs one record, damage is one line."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.telemetry import routing_trace
from qwenctl.telemetry.routing_steps import RoutingStep
from qwenctl.telemetry.routing_trace import MAGIC, TraceHeader, TraceReader, TraceWriter

HEADER = TraceHeader("tiny", n_layers=3, n_experts=8, n_used=2)
STEPS = [RoutingStep(0, (1, 2, 3, 4), 2), RoutingStep(2, (0, 7), 1), RoutingStep(1, (5, 6), 1, (5, 6, 0))]
HEAD_BYTES = 24 + len("tiny")


def write(path: Path, header: TraceHeader, steps: list[RoutingStep]) -> Path:
    with TraceWriter(path, header) as writer:
        for step in steps:
            rows = step.ranking or step.ids
            writer.record(step.layer, list(rows), step.n_tokens, len(rows) // step.n_tokens)
    return path


@st.composite
def traces(draw: st.DrawFn) -> tuple[TraceHeader, list[RoutingStep]]:
    n_experts = draw(st.sampled_from([1, 2, 8, 128, 256, 257, 512, 65535]))
    n_used = draw(st.integers(1, min(n_experts, 10)))
    header = TraceHeader(draw(st.text(max_size=40)), draw(st.integers(1, 100)), n_experts, n_used)
    steps = []
    for layer, n_tokens in draw(st.lists(st.tuples(st.integers(0, header.n_layers - 1), st.integers(1, 9)))):
        expert, n_row = st.integers(0, n_experts - 1), draw(st.integers(n_used, min(n_experts, n_used + 3)))
        rows = draw(st.lists(expert, min_size=n_tokens * n_row, max_size=n_tokens * n_row))
        steps.append(RoutingStep.of(layer, tuple(rows), n_tokens, n_used))
    return header, steps


@given(trace=traces(), cut=st.integers(0, 40))
def test_what_was_written_is_read_up_to_where_the_file_was_cut(tmp_path_factory, trace, cut):
    header, steps = trace
    path = write(tmp_path_factory.mktemp("traces") / "run.trace", header, steps)
    reader = TraceReader(path)
    assert list(reader.read().steps) == steps
    assert (reader.header.n_layers, reader.header.n_experts, reader.header.n_used) == (
        header.n_layers,
        header.n_experts,
        header.n_used,
    )
    assert reader.header.model == header.model.encode("utf-8", "replace").decode()
    assert reader.n_cut_bytes == 0

    sizes = [8 + len(step.ranking or step.ids) * header.id_bytes for step in steps]
    whole = path.read_bytes()
    cut = min(cut, sum(sizes))
    path.write_bytes(whole[: len(whole) - cut])
    kept = [step for index, step in enumerate(steps) if sum(sizes[index + 1 :]) >= cut]
    reader = TraceReader(path)
    assert list(reader.steps()) == kept
    assert reader.n_cut_bytes == sum(sizes[: len(steps)]) - cut - sum(sizes[: len(kept)])


def test_the_bytes_are_those_of_the_drawing(tmp_path):
    data = write(tmp_path / "t", HEADER, STEPS).read_bytes()
    assert data == (
        b"QWROUTE\n\x02\x00\x04\x00\x03\x00\x00\x00\x08\x00\x00\x00\x02\x00\x01\x00tiny"
        b"\x00\x00\x02\x00\x00\x00\x02\x00\x01\x02\x03\x04"
        b"\x02\x00\x01\x00\x00\x00\x02\x00\x00\x07"
        b"\x01\x00\x01\x00\x00\x00\x03\x00\x05\x06\x00"
    )


def test_a_trace_of_version_1_is_read(tmp_path):
    head = struct.pack("<8sHHIIHBx", MAGIC, 1, 0, 3, 8, 2, 1)
    (tmp_path / "t").write_bytes(head + struct.pack("<HI4B", 0, 2, 1, 2, 3, 4) + struct.pack("<HI2B", 2, 1, 0, 7))
    assert list(TraceReader(tmp_path / "t").steps()) == STEPS[:2]


def test_ids_take_two_bytes_only_where_they_must(tmp_path):
    def size(n_experts: int) -> int:
        header = TraceHeader("", 94, n_experts, 8)
        return len(write(tmp_path / f"{n_experts}", header, [RoutingStep(93, tuple(range(8)), 1)] * 94).read_bytes())

    assert (size(128) - 24, size(256) - 24, size(257) - 24) == (1504, 1504, 1504 + 94 * 8)


def test_a_crash_loses_no_more_than_what_was_not_handed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(routing_trace, "_BLOCK_BYTES", 25)
    writer = TraceWriter(tmp_path / "t", HEADER)
    for _ in range(5):  # records of 10 bytes: the file is written to after every third
        writer.record(1, [5, 6], 1, 2)
    assert len(list(TraceReader(tmp_path / "t").steps())) == 3
    writer.close()
    assert len(list(TraceReader(tmp_path / "t").steps())) == 5


@pytest.mark.parametrize(
    ("ids", "n_tokens", "n_row"),
    [([1], 1, 1), ([1, 2, 3], 2, 2), ([1], 1, 2), ([], 0, 2), ([1, 256], 1, 2), ([1] * 9, 1, 9)],
)
def test_numbers_that_do_not_fit_are_not_written(tmp_path, ids, n_tokens, n_row):
    with TraceWriter(tmp_path / "t", HEADER) as writer:
        with pytest.raises(ValueError, match=r"layer 0|range\(0, 256\)"):
            writer.record(0, ids, n_tokens, n_row)
        writer.record(1, [3, 4], 1, 2)
    assert list(TraceReader(tmp_path / "t").steps()) == [RoutingStep(1, (3, 4), 1)]


def test_an_earlier_trace_is_replaced_and_nothing_else_is(tmp_path):
    path = write(tmp_path / "t", HEADER, STEPS)
    write(path, HEADER, STEPS[:1])
    assert list(TraceReader(path).steps()) == STEPS[:1]
    path.write_text("my notes")
    with pytest.raises(InvalidRequest, match="something else than a routing trace"):
        TraceWriter(path, HEADER)
    assert path.read_text() == "my notes"
    with pytest.raises(InvalidRequest, match="Is a directory"):
        TraceWriter(tmp_path, HEADER)


def test_a_full_disk_is_said_once_and_at_the_end(monkeypatch):
    monkeypatch.setattr(routing_trace, "_BLOCK_BYTES", 64)
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    writer = TraceWriter(full, HEADER)
    for _ in range(100):
        writer.record(0, [1, 2], 1, 2)
    with pytest.raises(QwenctlError, match="cannot write /dev/full: No space left"):
        writer.close()
    writer.close()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no routing trace"),
        (b"GGUF" + bytes(100), "is no routing trace"),
        (MAGIC, "ends within its header, after 8 bytes"),
        (struct.pack("<8sHHIIHBx", MAGIC, 1, 9, 3, 8, 2, 1) + b"short", "ends within its header, after 29 bytes"),
        (struct.pack("<8sHHIIHBx", MAGIC, 3, 0, 3, 8, 2, 1), "of version 3; this program reads up to 2"),
        (struct.pack("<8sHHIIHBx", MAGIC, 1, 0, 0, 8, 2, 1), "no such model: 0 layers"),
        (struct.pack("<8sHHIIHBx", MAGIC, 1, 0, 3, 8, 9, 1), "9 of 8 experts"),
        (struct.pack("<8sHHIIHBx", MAGIC, 1, 0, 3, 8, 2, 2), "ids of 2 bytes for 8 experts"),
        (struct.pack("<8sHHIIHBx", MAGIC, 1, 0, 3, 300, 2, 1), "ids of 1 bytes for 300 experts"),
        (struct.pack("<8sHHIIHBx", MAGIC, 1, 1, 3, 8, 2, 1) + b"\xff", "name is not UTF-8"),
    ],
)
def test_a_file_that_is_no_trace_is_one_line(tmp_path, data, message):
    path = tmp_path / "bad.trace"
    path.write_bytes(data)
    with pytest.raises(InvalidRequest, match=message) as raised:
        TraceReader(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (struct.pack("<HIH2B", 3, 1, 2, 1, 2), "layer 3, 1 tokens"),
        (struct.pack("<HIH", 0, 0, 2), "layer 0, 0 tokens"),
        (struct.pack("<HIH", 0, 1 << 21, 2), "2097152 tokens"),
        (struct.pack("<HIH2B", 0, 1, 1, 1, 2), "1 ids a token"),
        (struct.pack("<HIH2B", 0, 1, 9, 1, 2), "9 ids a token"),
        (struct.pack("<HIH2B", 0, 1, 2, 1, 8), "expert 8 of 8"),
    ],
)
def test_a_damaged_record_is_named_by_its_place(tmp_path, record, message):
    path = write(tmp_path / "t", HEADER, STEPS)
    n_bytes = len(path.read_bytes())
    path.write_bytes(path.read_bytes() + record + bytes(100))
    with pytest.raises(InvalidRequest, match=f"record at byte {n_bytes} says .*{message}"):
        TraceReader(path).read()


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(InvalidRequest, match=r"cannot read .*: No such file"):
        TraceReader(tmp_path / "none")


@given(data=st.binary(max_size=200))
def test_no_bytes_at_all_make_it_fail_in_another_way(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("noise") / "noise.trace"
    for noise in (data, MAGIC + data, write(path, HEADER, STEPS).read_bytes() + data):
        path.write_bytes(noise)
        with suppress(InvalidRequest):
            TraceReader(path).read()
