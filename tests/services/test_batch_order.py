"""The input's order: append-only, crash-safe, and nothing that is finished is done again."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.services.batch import BatchOptions, run_batch
from qwenctl.services.batch_journal import BatchJournal
from qwenctl.services.batch_order import InputOrder
from qwenctl.services.batch_output import BatchOutput
from qwenctl.services.batch_progress import BatchProgress
from qwenctl.services.generation import ChatModel
from tests.scripted_engine import ScriptedEngine
from tests.services.batch_files import Files, counts, prompts


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def uneven(prompt: str) -> Sequence[str]:
    """Later questions are sooner answered."""
    number = int(prompt.split()[1])
    return [f"{number} "] * (1 + (17 * (40 - number)) % 23)


def test_records_stand_in_the_input_s_order(files: Files) -> None:
    files.ask(*prompts(20), b"{", {"id": "typed", "prompt": 1}, *prompts(20, 20))
    assert counts(files.run(ScriptedEngine(answer=uneven, n_parallel=8), parallel=8, order="input")) == (40, 2, 0, 0)
    names = files.names
    assert names[20].startswith("line-21-")
    assert [*names[:20], *names[21:]] == [f"id-{n}" for n in range(20)] + ["typed"] + [f"id-{n}" for n in range(20, 40)]
    assert sorted(os.listdir(files.folder)) == ["in.jsonl", "out.jsonl"]


def interrupted(files: Files, n_answers: int) -> None:
    """Stop a run in which the first line takes for ever, once so many others are answered."""
    stop = threading.Event()

    def answer(prompt: str) -> Sequence[str]:
        return ["x"] * 3000 if prompt == "question 0" and not stop.is_set() else ["fine"]

    def show(progress: BatchProgress) -> None:
        path = BatchJournal.path_of(files.output)
        if path.exists() and path.read_bytes().count(b"\n") >= n_answers:
            raise KeyboardInterrupt

    engine = ScriptedEngine(answer=answer, n_parallel=2, seconds_per_step=0.001)
    with pytest.raises(KeyboardInterrupt):
        run_batch(ChatModel(engine), files.input, files.output, BatchOptions(parallel=2, order="input"), show)


def test_what_waits_for_its_turn_survives_and_is_not_done_again(files: Files) -> None:
    files.ask(*prompts(12))
    interrupted(files, 5)
    kept = {record.key.custom_id for _, record in BatchJournal(BatchJournal.path_of(files.output)).records()}
    assert len(kept) >= 5
    assert files.records == []
    engine = ScriptedEngine(n_parallel=4)
    assert counts(files.run(engine, order="input")) == (12 - len(kept), 0, len(kept), 0)
    assert not kept & {f"id-{prompt.split()[1]}" for prompt in engine.prompts}
    assert files.names == [f"id-{n}" for n in range(12)]
    assert not BatchJournal.path_of(files.output).exists()


def test_another_order_takes_over_what_waits(files: Files) -> None:
    files.ask(*prompts(8))
    interrupted(files, 4)
    summary = files.run()
    assert summary.n_skipped >= 4
    assert sorted(files.names) == sorted(f"id-{n}" for n in range(8))
    assert sorted(os.listdir(files.folder)) == ["in.jsonl", "out.jsonl"]


def test_a_torn_or_foreign_journal(files: Files) -> None:
    files.ask(*prompts(8))
    interrupted(files, 4)
    path = BatchJournal.path_of(files.output)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    n_whole = whole.count(b"\n") - 1
    assert counts(files.run(order="input")) == (8 - n_whole, 0, n_whole, 0)
    assert files.names == [f"id-{n}" for n in range(8)]
    path.write_bytes(b"my notes\n")
    with pytest.raises(InvalidRequest, match=r"line 1 of .*pending is no result of a batch"):
        files.run(order="input")
    assert path.read_bytes() == b"my notes\n"


def test_restart_and_edited_lines_heed_the_journal(files: Files) -> None:
    files.ask(*prompts(8))
    interrupted(files, 4)
    files.ask(*[{**line, "prompt": "another"} for line in prompts(8)])
    with pytest.raises(InvalidRequest, match="was changed since"):
        files.run(order="input")
    assert counts(files.run(order="input", restart=True)) == (8, 0, 0, 0)
    assert not BatchJournal.path_of(files.output).exists()


def test_an_edited_line_without_a_name_is_refused_when_its_answer_waits(files: Files) -> None:
    files.ask(prompts(1)[0], *[{"prompt": f"question {n}"} for n in range(1, 8)])
    interrupted(files, 4)
    files.ask(prompts(1)[0], *[{"prompt": f"other {n}"} for n in range(1, 8)])
    with pytest.raises(InvalidRequest, match="no longer has"):
        files.run(order="input")


def test_a_disk_that_fills_while_answers_wait(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.ask(*prompts(20))
    true_write, n_calls = os.write, 0

    def write(fd: int, data: bytes) -> int:
        nonlocal n_calls
        n_calls += 1
        if n_calls > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return true_write(fd, data[:50] if n_calls == 6 else data)

    with monkeypatch.context() as patch:
        patch.setattr("qwenctl.services.batch_journal.os.write", write)
        with pytest.raises(QwenctlError, match=r"cannot write .*: No space left on device"):
            files.run(ScriptedEngine(answer=uneven, n_parallel=8), parallel=8, order="input")
    before = files.output.read_bytes()
    summary = files.run(ScriptedEngine(answer=uneven, n_parallel=8), parallel=8, order="input")
    assert summary.n_skipped >= 3
    assert files.output.read_bytes().startswith(before)
    assert files.names == [f"id-{n}" for n in range(20)]


def test_errors_in_the_journal_are_retried_when_asked(files: Files) -> None:
    files.ask(*prompts(6))
    journal = BatchJournal.path_of(files.output)

    def answer(prompt: str) -> Sequence[str | Exception]:
        return ["x"] * 3000 if prompt == "question 0" else [RuntimeError("broken")]

    def show(progress: BatchProgress) -> None:
        if progress.n_errors >= 3:
            raise KeyboardInterrupt

    engine = ScriptedEngine(answer=answer, n_parallel=2, seconds_per_step=0.001)
    options = BatchOptions(parallel=2, order="input", n_retries=0)
    with pytest.raises(KeyboardInterrupt):
        run_batch(ChatModel(engine), files.input, files.output, options, show)
    n_failed = journal.read_bytes().count(b"\n")
    assert n_failed >= 3
    assert counts(files.run(order="input", retry_errors=True)) == (6, 0, 0, 0)
    assert list(files.answers) == [f"id-{n}" for n in range(6)]


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_ends_gives_the_same_file(tmp_path: Path, seed: int) -> None:
    chance, numbers = random.Random(seed), list(range(200))
    with BatchOutput(tmp_path / "out", restart=False, retry_errors=False, in_order=True) as output:
        order, under_way, n_begun = InputOrder(output), list[int](), 0
        while under_way or n_begun < 200:
            while n_begun < 200 and len(under_way) < 20:
                order.expect(n_begun)
                under_way.append(n_begun)
                n_begun += 1
            number = under_way.pop(chance.randrange(len(under_way)))
            order.put(number, b"%d\n" % number)
    assert [int(line) for line in (tmp_path / "out").read_bytes().splitlines()] == numbers
    assert os.listdir(tmp_path) == ["out"]
