from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from qwenctl.core import Finished, GenerationEvent
from qwenctl.errors import BatchFailed, GenerationFailed, InvalidRequest, QwenctlError
from qwenctl.services.batch import BatchOptions, BatchProgress, run_batch
from qwenctl.services.chat_template import ChatTemplate
from qwenctl.services.engine_surface import TakeEvents
from qwenctl.services.generation import ChatModel, ChatOptions
from tests.chat_templates import QWEN3
from tests.scripted_engine import ScriptedEngine
from tests.services.batch_files import Files, counts, prompts


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_a_record_has_openais_form(files: Files) -> None:
    body = {"messages": [{"role": "user", "content": "Hello"}], "seed": 5}
    files.ask({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body})
    engine = ScriptedEngine([["<think>\n", "hm", "</think>\n\n", "Hi 👋\u2028"]], chat_template=QWEN3)
    assert counts(files.run(engine)) == (1, 0, 0, 0)
    [line] = files.output.read_bytes().split(b"\n")[:-1]
    record = json.loads(line)
    response = record["response"]
    assert record["error"] is None
    assert (record["custom_id"], response["status_code"]) == ("a", 200)
    assert record["id"].startswith("batch_req_")
    assert response["body"]["object"] == "chat.completion"
    assert response["body"]["model"] == "scripted"
    assert response["body"]["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hi 👋\u2028",
                "refusal": None,
                "reasoning_content": "hm",
                "reasoning": "hm",
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    usage = response["body"]["usage"]
    assert usage["completion_tokens"] == 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + 4
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 3}
    assert (record["qwenctl"]["seed"], record["qwenctl"]["thinking"]) == (5, True)


def test_many_at_once_and_each_once(files: Files) -> None:
    files.ask(*prompts(50), *[{"prompt": f"no name {n % 2}"} for n in range(5)])
    engine = ScriptedEngine(answer=lambda prompt: [prompt] * (1 + len(prompt) % 3), n_parallel=8)
    summary = files.run(engine, parallel=8)
    assert counts(summary) == (55, 0, 0, 0)
    assert engine.most_active == 8
    assert len(files.answers) == 55
    assert files.answers["id-3"].startswith("question 3")
    assert summary.n_generated_tokens == sum(
        record["response"]["body"]["usage"]["completion_tokens"] for record in files.records
    )
    assert summary.failure(files.output) is None


def test_one_error_record_for_each_bad_line(files: Files) -> None:
    files.ask(
        {"id": "good", "prompt": "a"},
        b"{",
        b'"\xff"',
        {"id": "typed", "prompt": 1},
        {"id": "range", "prompt": "a", "top_p": 2},
        {"id": "half", "prompt": "a\ud800"},
        {"id": "long", "prompt": "x" * 5000},
        {"id": "good", "prompt": "again"},
        {"id": "broken", "prompt": "fail"},
        {"id": "last", "prompt": "b", "max_tokens": 1},
    )

    def answer(prompt: str) -> Sequence[str | Exception]:
        return [RuntimeError("decode failed")] if prompt == "fail" else ["yes", "no"]

    summary = files.run(ScriptedEngine(answer=answer), parallel=1)
    assert counts(summary) == (2, 8, 0, 0)
    assert files.answers == {"good": "yesno", "last": "yes"}
    by_line = {record["error"]["line"]: record for record in files.records if record["error"]}
    assert {number: record["error"]["code"] for number, record in by_line.items()} == {
        2: "invalid_json",
        3: "invalid_json",
        4: "invalid_request",
        5: "invalid_request",
        6: "invalid_request",
        7: "prompt_too_long",
        8: "duplicate_custom_id",
        9: "generation_failed",
    }
    assert by_line[8]["error"]["message"] == "line 1 has the custom_id 'good' already"
    assert by_line[7]["error"]["message"] == "the prompt is 5000 tokens long, but the context holds 4096"
    assert by_line[2]["custom_id"].startswith("line-2-")
    failure = summary.failure(files.output)
    assert isinstance(failure, BatchFailed)
    assert "8 of 10 lines" in failure.message
    assert counts(files.run()) == (0, 0, 10, 8)


def test_a_name_that_a_bad_line_was_given_is_taken(files: Files) -> None:
    same = [{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}]
    files.ask(*same)
    files.run()
    [given] = files.errors
    files.ask(*same, {"id": given, "prompt": "z"})
    assert counts(files.run(restart=True)) == (1, 2, 0, 0)
    assert len(set(files.names)) == 3
    assert counts(files.run()) == (0, 0, 3, 2)


@pytest.mark.parametrize("n_lines", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_bad_lines_among_many(files: Files, n_lines: int) -> None:
    bad: list[Any] = [b"{", b"\xff", [], {}, {"prompt": 1}, {"prompt": "a", "seed": "x"}, b"null", {"body": 1}]
    lines = [bad[n // 50 % len(bad)] if n % 50 == 0 else {"prompt": f"q{n}"} for n in range(n_lines)]
    files.ask(*lines)
    assert counts(files.run(ScriptedEngine(n_parallel=32), parallel=32)) == (n_lines * 49 // 50, n_lines // 50, 0, 0)
    assert len(files.errors) == n_lines // 50
    assert len(files.answers) == n_lines * 49 // 50


def test_template_failures_are_records_too(files: Files) -> None:
    files.ask({"id": "a", "prompt": "fine"}, {"id": "b", "prompt": "bad"})
    source = "{% if messages[0].content == 'bad' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}"
    with ChatTemplate(source) as template:
        model = ChatModel(ScriptedEngine(), template)
        summary = run_batch(model, files.input, files.output)
    assert counts(summary) == (1, 1, 0, 0)
    assert files.errors == {"b": "the chat template refused the conversation: no"}


def test_defaults_hold_where_a_line_says_nothing(files: Files) -> None:
    files.ask({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y", "system": "own", "temperature": 0.5})
    engine = ScriptedEngine()
    files.run(engine, system="shared", chat=ChatOptions(sampling={"temperature": 0.0}, max_tokens=5))
    assert engine.prompts == ["shared\n\nx", "own\n\ny"]
    assert [request.sampling.temperature for request in engine.history] == [0.0, 0.5]
    assert {request.max_tokens for request in engine.history} == {5}


def test_a_cut_prompt_says_so(files: Files) -> None:
    files.ask({"id": "a", "prompt": "x" * 5000})
    files.run(chat=ChatOptions(overflow="truncate-middle"))
    assert any("the prompt was cut from 5,000 to" in note for note in files.records[0]["qwenctl"]["notes"])


def test_progress(files: Files) -> None:
    files.ask(*prompts(3), b"", *prompts(2, 3), b"{")
    seen: list[BatchProgress] = []
    ticks = iter(range(100_000))
    model = ChatModel(ScriptedEngine(n_parallel=2))
    run_batch(model, files.input, files.output, BatchOptions(parallel=2), seen.append, clock=lambda: float(next(ticks)))
    assert (seen[0].n_finished, seen[0].n_total, seen[0].seconds_left) == (0, 7, None)
    assert (seen[-1].n_finished, seen[-1].n_total, seen[-1].n_errors, seen[-1].seconds_left) == (6, 6, 1, 0)
    assert [progress.n_finished for progress in seen] == sorted(progress.n_finished for progress in seen)
    assert seen[-1].n_generated_tokens == 10
    assert seen[-1].tokens_per_s > 0


def test_progress_of_a_line_that_is_not_finished(files: Files) -> None:
    files.ask(*prompts(2))
    seen: list[BatchProgress] = []
    engine = ScriptedEngine(answer=lambda _: ["x"] * 40, seconds_per_step=0.02)
    run_batch(ChatModel(engine), files.input, files.output, BatchOptions(parallel=2), seen.append)
    assert any(0 < progress.n_generated_tokens < 80 for progress in seen if not progress.n_finished)
    assert seen[-1].n_generated_tokens == 80


# Going on


def test_a_second_run_does_only_what_is_left(files: Files) -> None:
    files.ask(*prompts(3))
    files.run()
    before = files.output.read_bytes()
    files.ask(*reversed(prompts(5)))
    engine = ScriptedEngine()
    assert counts(files.run(engine)) == (2, 0, 3, 0)
    assert sorted(engine.prompts) == ["question 3", "question 4"]
    assert files.output.read_bytes().startswith(before)
    assert len(files.answers) == 5


@pytest.mark.parametrize(
    "torn", [b'{"id": "batch_req_ab", "custom_id": "id-2", "respo', b'{"id"', b"\0" * 100, b'{"id": "batch_req_\0\0\0']
)
def test_a_torn_last_line_is_cut_off(files: Files, torn: bytes) -> None:
    files.ask(*prompts(3))
    files.run()
    whole = files.output.read_bytes()
    two = b"".join(whole.splitlines(keepends=True)[:2])
    for tail in (torn, whole[len(two) : -1]):
        files.output.write_bytes(two + tail)
        assert counts(files.run()) == (1, 0, 2, 0)
        assert len(files.answers) == 3
    files.output.write_bytes(torn)
    assert counts(files.run()) == (3, 0, 0, 0)


@pytest.mark.parametrize(
    "content", [b"my notes", b"my notes\n", b"{}\n", b'{"id": "x", "custom_id": "a"}\n', b'{"id":"']
)
def test_foreign_files_are_left_alone(files: Files, content: bytes) -> None:
    files.ask(*prompts(1))
    files.output.write_bytes(content)
    with pytest.raises(InvalidRequest, match="no result of a batch"):
        files.run()
    assert files.output.read_bytes() == content
    assert counts(files.run(restart=True)) == (1, 0, 0, 0)


def test_an_edited_line_is_refused_by_name(files: Files) -> None:
    files.ask(*prompts(3))
    files.run()
    before = files.output.read_bytes()
    files.ask(*prompts(2), {"id": "id-2", "prompt": "another question"})
    with pytest.raises(InvalidRequest, match=r"line 3 of .* \('id-2'\) was changed since") as failure:
        files.run()
    assert "--restart" in (failure.value.hint or "")
    assert files.output.read_bytes() == before
    assert counts(files.run(restart=True)) == (3, 0, 0, 0)


def test_an_edited_line_without_a_name_is_refused_too(files: Files) -> None:
    files.ask({"prompt": "a"}, {"prompt": "b"})
    files.run()
    files.ask({"prompt": "a"}, {"prompt": "c"})
    with pytest.raises(InvalidRequest, match=r"answers 'line-2-[0-9a-f]{8}', which .* no longer has"):
        files.run()


def test_removed_and_rewritten_lines_may_be(files: Files) -> None:
    files.ask(*prompts(3), {"prompt": "a", "top_k": 1}, {"id": "id-0", "prompt": "duplicate"})
    files.run()
    files.ask(prompts(1)[0], b"", b"", b'{"top_k":1,   "prompt":"a"}', {"id": "id-0", "prompt": "duplicate"})
    assert counts(files.run()) == (0, 0, 3, 1)


def test_other_settings_or_another_model_are_refused(files: Files) -> None:
    files.ask(*prompts(1))
    files.run()
    with pytest.raises(InvalidRequest, match="by another model or with other options"):
        files.run(chat=ChatOptions(thinking=False))
    with pytest.raises(InvalidRequest, match="by another model or with other options"):
        files.run(ScriptedEngine(architecture="llama"))
    assert counts(files.run(parallel=1)) == (0, 0, 1, 0)


def test_an_engine_that_is_no_more_is_the_runs_error_and_no_lines(files: Files) -> None:
    """A remote device went away, for one: the lines under way are not answered, and the next run does it."""
    files.ask(*prompts(3))
    gone = GenerationFailed("the worker host:1 was lost")

    class Dying(ScriptedEngine):
        def step(self, meanwhile: TakeEvents | None = None) -> list[GenerationEvent]:
            events = super().step(meanwhile)
            if any(isinstance(event, Finished) and event.error for event in events):
                self.failure = gone
            return events

    engine = Dying(replies=[["fine"], [*"abcd", gone], [*"abcd", gone]], n_parallel=2)
    with pytest.raises(GenerationFailed, match="host:1 was lost"):
        files.run(engine, parallel=2)
    assert (files.answers, files.errors) == ({"id-0": "fine"}, {})
    assert counts(files.run(ScriptedEngine(n_parallel=2))) == (2, 0, 1, 0)


def test_errors_are_final_unless_asked(files: Files) -> None:
    files.ask(*prompts(2), {"id": "bad", "prompt": "a", "top_p": 7})
    broken = ScriptedEngine([["fine"], [RuntimeError("out of memory")]])
    assert counts(files.run(broken)) == (1, 2, 0, 0)
    assert counts(files.run()) == (0, 0, 3, 2)
    os.chmod(files.output, 0o640)
    assert counts(files.run(retry_errors=True)) == (1, 1, 1, 0)
    assert files.answers == {"id-0": "fine", "id-1": "10 characters"}
    assert files.output.stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(files.folder)) == ["in.jsonl", "out.jsonl"]


# Files


def test_input_and_output_must_differ(files: Files) -> None:
    files.ask(*prompts(1))
    before = files.input.read_bytes()
    os.link(files.input, files.output)
    with pytest.raises(InvalidRequest, match="input and output at once"):
        files.run(restart=True)
    assert files.input.read_bytes() == before


def test_output_that_cannot_be_written(files: Files) -> None:
    files.ask(*prompts(1))
    model = ChatModel(ScriptedEngine())
    for path, reason in (
        (files.folder, "Is a directory"),
        (files.folder / "no" / "out", "No such file"),
        (Path("/dev/null"), "not a regular file"),
    ):
        with pytest.raises(InvalidRequest, match=reason):
            run_batch(model, files.input, path)
    with pytest.raises(InvalidRequest, match="at least one sequence"):
        files.run(parallel=0)


def test_a_second_process_is_kept_out(files: Files) -> None:
    files.ask(*prompts(1))
    with files.output.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InvalidRequest, match="another process is writing"):
            files.run()
    assert counts(files.run()) == (1, 0, 0, 0)


def test_the_lock_follows_the_rewritten_file(files: Files) -> None:
    files.ask({"id": "a", "prompt": "x"}, {"id": "b", "prompt": 1})
    files.run()

    class Meddler(ScriptedEngine):
        def step(self, meanwhile: TakeEvents | None = None) -> list[GenerationEvent]:
            with pytest.raises(InvalidRequest, match="another process is writing"):
                files.run()
            return super().step(meanwhile)

    files.ask({"id": "a", "prompt": "x"}, {"id": "b", "prompt": 1}, {"id": "c", "prompt": "y"})
    assert counts(files.run(Meddler(), retry_errors=True)) == (1, 1, 1, 0)


def test_a_full_disk_ends_the_run_and_the_next_goes_on(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files.ask(*prompts(4))
    true_write, n_calls = os.write, 0

    def write(fd: int, data: bytes) -> int:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 3:
            return true_write(fd, data[:20])  # some file systems write what fits first
        if n_calls > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return true_write(fd, data)

    with monkeypatch.context() as patch:
        patch.setattr("qwenctl.services.batch_output.os.write", write)
        with pytest.raises(QwenctlError, match=r"cannot write .*: No space left on device"):
            files.run()
    assert len(files.records) == 2
    assert counts(files.run()) == (2, 0, 2, 0)
    assert len(files.answers) == 4


def test_an_interrupted_run_keeps_what_is_finished(files: Files) -> None:
    """Ctrl-C is looked for where progress is told."""
    files.ask(*prompts(60))

    def interrupt(progress: BatchProgress) -> None:
        if progress.n_finished >= 2:
            raise KeyboardInterrupt

    engine = ScriptedEngine(n_parallel=2, seconds_per_step=0.02)
    with pytest.raises(KeyboardInterrupt):
        run_batch(ChatModel(engine), files.input, files.output, BatchOptions(parallel=2), interrupt)
    n_answers = len(files.answers)
    assert 2 <= n_answers < 60
    assert counts(files.run()) == (60 - n_answers, 0, n_answers, 0)
