"""What a run would meet, found out without generating anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.services.batch import BatchOptions
from qwenctl.services.batch_check import MOST_NAMED, BatchCheck, check_batch
from qwenctl.services.generation import ChatModel, ChatOptions
from tests.chat_templates import QWEN3
from tests.scripted_engine import ScriptedEngine
from tests.services.batch_files import Files, prompts

SHORT = ChatOptions(max_tokens=20)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def check(files: Files, engine: ScriptedEngine | None, **options: Any) -> BatchCheck:
    model = ChatModel(engine) if engine else None
    try:
        return check_batch(model, files.input, files.output, BatchOptions(**{"chat": SHORT, **options}))
    finally:
        if model:
            model.close()


def test_lines_are_counted_and_bad_ones_named(files: Files) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {"type": "no such type"}}}
    bad_form = {"messages": [{"role": "user", "content": "x"}], "response_format": form}
    files.ask(
        *prompts(3),
        b"{",
        {"id": "long", "prompt": "x" * 5000},
        {"id": "id-0", "prompt": "twice"},
        {"custom_id": "form", "method": "POST", "url": "/v1/chat/completions", "body": bad_form},
        {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": {"input": ["four", "x"]}},
        {"custom_id": "c", "method": "POST", "url": "/v1/completions", "body": {"prompt": "once", "n": 2}},
    )
    engine = ScriptedEngine()
    found = check(files, engine)
    assert engine.history == []
    assert not files.output.exists()
    assert (found.n_lines, found.n_answered, found.n_bad) == (9, 0, 4)
    assert [problem.line for problem in found.problems] == [4, 6, 5, 7]
    assert found.problems[1].custom_id.startswith("line-6-")  # as its record would be named
    assert found.problems[1].message == "line 1 has the custom_id 'id-0' already"
    assert found.by_url == {"/v1/chat/completions": 3, "/v1/embeddings": 1, "/v1/completions": 1}
    assert found.n_prompt_tokens == 3 * 10 + 5 + 4
    assert found.longest_prompt == 10
    assert found.n_most_generated_tokens == 3 * 20 + 2 * 16
    failure = found.failure()
    assert isinstance(failure, InvalidRequest)
    assert "4 of 9 lines" in failure.message


def test_what_is_answered_counts_no_more_and_tells_how_long_answers_are(files: Files) -> None:
    files.ask(*prompts(4))
    files.run(ScriptedEngine(answer=lambda _: ["x"] * 5), chat=SHORT)
    before = files.output.read_bytes()
    files.ask(*prompts(10))
    found = check(files, ScriptedEngine())
    assert (found.n_answered, found.n_prompt_tokens, found.n_most_generated_tokens) == (4, 60, 120)
    assert found.n_usual_generated_tokens == 30
    assert found.seconds(60, 10) == 4.0
    assert found.failure() is None
    assert files.output.read_bytes() == before
    anew = check(files, ScriptedEngine(), restart=True)
    assert (anew.n_answered, anew.n_usual_generated_tokens, anew.seconds(100, 10)) == (0, None, 21.0)
    with pytest.raises(InvalidRequest, match="other options"):
        check(files, ScriptedEngine(), chat=ChatOptions(max_tokens=21))


def test_templates_are_tried(files: Files) -> None:
    files.ask(*prompts(100))
    found = check(files, ScriptedEngine(chat_template=QWEN3))
    assert (found.n_bad, found.by_url) == (0, {"/v1/chat/completions": 100})
    assert found.n_prompt_tokens is not None
    assert found.n_prompt_tokens > 100 * 20


def test_without_a_model_lines_are_read_only(files: Files) -> None:
    files.ask(*prompts(2), *[b"{"] * 30)
    found = check(files, None)
    assert (found.n_lines, found.n_bad, len(found.problems)) == (32, 30, MOST_NAMED)
    assert (found.n_prompt_tokens, found.seconds(1, 1)) == (None, None)
