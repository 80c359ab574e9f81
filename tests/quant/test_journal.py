"""The journal counts exactly the lines that are whole, and lets one process in."""

from __future__ import annotations

from pathlib import Path

import pytest

from quant.durable_files import DurableFiles
from quant.errors import OutputBusy, ResumeRefused
from quant.journal import Journal, ReadMark, describe_differences, read_state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf.journal"


def write(path: Path) -> None:
    with Journal(path, DurableFiles()) as journal:
        journal.start({"output type": "q8_0"})
        journal.record_done([(1, 11), (0, 10), (5, 15)])
        journal.record_done([(2, 12)])
        journal.record_ready(77)


def test_says_what_was_written(path: Path) -> None:
    write(path)
    state = read_state(path.read_bytes())
    assert state.identity == {"output type": "q8_0"}
    assert state.done == {0: 10, 1: 11, 2: 12, 5: 15}
    assert (state.ready_inode, state.n_sound_bytes) == (77, path.stat().st_size)


def test_how_far_a_source_was_read_is_the_last_that_was_said(path: Path) -> None:
    with Journal(path, DurableFiles()) as journal:
        journal.start({"output type": "q8_0"})
        journal.record_done([(0, 10)], {"a": ReadMark(100, "ab"), "b": ReadMark(8, "cd")})
        journal.record_done([], {"a": ReadMark(0)})
        kept = dict(journal.state.read)
    state = read_state(path.read_bytes())
    assert state.read == kept == {"a": ReadMark(0), "b": ReadMark(8, "cd")}
    assert state.done == {0: 10}


def test_cut_anywhere_it_counts_its_whole_lines(path: Path) -> None:
    write(path)
    data = path.read_bytes()
    for length in range(len(data)):
        state = read_state(data[:length])
        assert state.n_sound_bytes == data.rfind(b"\n", 0, length) + 1
        assert set(state.done.items()) <= {(0, 10), (1, 11), (2, 12), (5, 15)}


def test_any_changed_byte_ends_it(path: Path) -> None:
    write(path)
    data = path.read_bytes()
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        assert read_state(damaged).n_sound_bytes <= place


def test_lines_after_a_torn_one_are_written_over_it(path: Path) -> None:
    write(path)
    path.write_bytes(path.read_bytes()[:-5])
    with Journal(path, DurableFiles()) as journal:
        journal.resume()
        journal.record_done([(9, 19)])
    state = read_state(path.read_bytes())
    assert state.done == {0: 10, 1: 11, 2: 12, 5: 15, 9: 19}
    assert (state.ready_inode, state.n_sound_bytes) == (None, path.stat().st_size)


def test_a_second_process_is_told_which_one_writes(path: Path) -> None:
    with Journal(path, DurableFiles()) as journal:
        journal.start({})
        with pytest.raises(OutputBusy, match=f"process {journal.state.process} "):
            Journal(path, DurableFiles())
    Journal(path, DurableFiles()).close()


def test_other_settings_are_refused(path: Path) -> None:
    write(path)
    with Journal(path, DurableFiles()) as journal:
        journal.refuse_other({"output type": "q8_0"})
        with pytest.raises(ResumeRefused, match="output type was q8_0, is q6_k"):
            journal.refuse_other({"output type": "q6_k"})


def test_differences_are_named() -> None:
    before = {"same": "1", "type": "a", "file x": "1"}
    now = {"same": "1", "type": "b", "file y": "1"}
    assert describe_differences(before, now) == ["file x is gone", "file y is new", "type was a, is b"]
