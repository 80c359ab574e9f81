"""Lines with the same beginning come together, the others as they stand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from qwenctl.services.batch_input import InputLine
from qwenctl.services.batch_job import BatchJob
from qwenctl.services.batch_record import RecordKey
from qwenctl.services.batch_request import BatchRequest, parse_line
from qwenctl.services.batch_window import LineWindow, grouped
from qwenctl.services.generation import ChatOptions
from tests.scripted_engine import ScriptedEngine
from tests.services.batch_files import Files


def job(number: int, n_bytes: int | None = None, **content: Any) -> BatchJob:
    data = json.dumps(content).encode()
    request = parse_line(InputLine(number, data, "00", len(data)))
    assert isinstance(request, BatchRequest)
    return BatchJob(number, n_bytes or len(data), RecordKey(str(number), "", ""), request)


def numbers(jobs: Sequence[BatchJob]) -> list[int]:
    return [job.line_number for job in jobs]


def test_groups_stand_in_the_order_of_their_first_lines() -> None:
    systems = ["a", "b", "", "a", "c", "b", "a", ""]
    lines = [job(n, prompt=f"question {n}", system=text) for n, text in enumerate(systems)]
    assert numbers(grouped(lines)) == [0, 3, 6, 1, 5, 2, 7, 4]
    unlike = [job(n, prompt=f"question {n}") for n in range(9)]
    assert numbers(grouped(unlike)) == list(range(9))


def test_documents_in_the_question_count_as_beginnings() -> None:
    documents = ["one " * 60, "two " * 60]
    lines = [job(n, prompt=documents[n % 2] + f"\n\nQuestion {n}?") for n in range(6)]
    assert numbers(grouped(lines)) == [0, 2, 4, 1, 3, 5]


def test_a_window_is_bounded_and_tells_what_comes_next() -> None:
    n_read = 0

    def lines() -> Iterator[BatchJob]:
        nonlocal n_read
        for number in range(40):
            n_read += 1
            yield job(number, n_bytes=1 << 19, prompt=f"{number}")

    told: list[list[int]] = []
    window = LineWindow(lines(), lambda jobs: told.append(numbers(jobs)))
    assert window.take(may_read=False) is None
    assert n_read == 0
    first = window.take(may_read=True)
    assert first is not None
    assert (first.line_number, n_read, len(window)) == (0, 8, 7)  # 4 MiB
    taken = [first]
    while (one := window.take(may_read=True)) is not None:
        taken.append(one)
    assert window.is_over
    assert numbers(taken) == list(range(40))
    assert [number for group in told for number in group] == list(range(40))


@pytest.mark.parametrize("order", ["finished", "input"])
def test_a_run_computes_them_together_and_keeps_the_order_that_was_asked_for(tmp_path: Path, order: str) -> None:
    files = Files(tmp_path)
    files.ask(*[{"id": f"id-{n}", "system": "S" * 20, "prompt": f"{'AB'[n % 2] * 300}{n}"} for n in range(10)])
    engine = ScriptedEngine()
    files.run(engine, parallel=1, order=order, chat=ChatOptions())
    assert [prompt[30] for prompt in engine.prompts] == [*"AAAAABBBBB"]
    expected = [f"id-{n}" for n in range(10)]
    assert files.names == (expected if order == "input" else expected[::2] + expected[1::2])
