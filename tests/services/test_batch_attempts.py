"""Attempts and limits: retries with other seeds, tokens over the whole batch, several replies a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from qwenctl.errors import BatchStopped, InvalidRequest
from qwenctl.services.batch import BatchOptions
from qwenctl.services.batch_budget import TokenBudget
from qwenctl.services.batch_input import InputLine
from qwenctl.services.batch_job import BatchJob, TokenCounts
from qwenctl.services.batch_progress import BatchTally
from qwenctl.services.batch_record import RecordKey
from qwenctl.services.batch_request import BatchRequest, parse_line
from qwenctl.services.generation import ChatOptions
from tests.chat_templates import QWEN3
from tests.scripted_engine import ScriptedEngine
from tests.services.batch_files import Files, counts, prompts


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_a_failed_attempt_is_repeated_with_another_seed(files: Files) -> None:
    files.ask({"id": "a", "prompt": "x", "seed": 1})
    engine = ScriptedEngine([["no", RuntimeError("lost")], [RuntimeError("lost")], ["yes"]])
    summary = files.run(engine, n_retries=2)
    assert (counts(summary), summary.n_retries) == ((1, 0, 0, 0), 2)
    seeds = [request.sampling.seed for request in engine.history]
    assert seeds[0] == 1
    assert len(set(seeds)) == 3
    [record] = files.records
    assert record["qwenctl"]["attempts"] == 3
    assert record["qwenctl"]["spent_tokens"] == 3 * 1 + 2  # the prompt three times, and two tokens


def test_after_the_last_attempt_there_is_an_error_record(files: Files) -> None:
    files.ask({"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y"})
    engine = ScriptedEngine([[RuntimeError("lost")], ["fine"], [RuntimeError("lost again")]])
    assert counts(files.run(engine, n_retries=1, parallel=1)) == (1, 1, 0, 0)
    [record] = [one for one in files.records if one["error"]]
    assert record["error"]["message"] == "lost again"
    assert record["qwenctl"]["attempts"] == 2


def test_several_replies_to_a_line(files: Files) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "n": 3, "seed": 5}
    files.ask({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body})
    engine = ScriptedEngine([["one"], ["two", "!"], ["three"]], n_parallel=4)
    summary = files.run(engine)
    assert (summary.n_done, summary.n_generated_tokens, summary.n_prompt_tokens) == (1, 4, 1)
    body = files.records[0]["response"]["body"]
    assert [choice["message"]["content"] for choice in body["choices"]] == ["one", "two!", "three"]
    assert body["usage"]["completion_tokens"] == 4
    assert len({request.sampling.seed for request in engine.history}) == 3


def test_completions_of_plain_text(files: Files) -> None:
    body = {"prompt": ["<think>Once", "Twice"], "n": 2, "max_tokens": 3}
    files.ask({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body})
    engine = ScriptedEngine([["<think>", "a"], ["b"], ["c"], ["d"]], n_parallel=1)
    summary = files.run(engine)
    assert (summary.n_done, summary.n_prompt_tokens) == (1, len("<think>OnceTwice"))
    answer = files.records[0]["response"]["body"]
    assert answer["object"] == "text_completion"
    assert [choice["text"] for choice in answer["choices"]] == ["<think>a", "b", "c", "d"]
    assert answer["usage"]["prompt_tokens"] == len("<think>OnceTwice")
    assert {request.max_tokens for request in engine.history} == {3}


def five(_: str) -> Sequence[str]:
    return ["x"] * 5


def test_the_limit_of_tokens_is_never_exceeded_and_gone_on_from(files: Files) -> None:
    """Every prompt has 10 tokens and every answer 5, of at most 20."""
    files.ask(*prompts(10))
    options = {"chat": ChatOptions(max_tokens=20), "parallel": 2}
    first = files.run(ScriptedEngine(answer=five, n_parallel=2), max_total_tokens=100, **options)
    assert (first.n_done, first.n_left, first.n_total_tokens) == (5, 5, 75)  # 75 + 30 would be too many
    failure = first.failure(files.output)
    assert isinstance(failure, BatchStopped)
    assert "answers 5 of 10 lines" in failure.message
    again = files.run(ScriptedEngine(answer=five, n_parallel=2), max_total_tokens=100, **options)
    assert (again.n_done, again.n_skipped, again.n_left, again.n_total_tokens) == (0, 5, 5, 75)
    rest = files.run(ScriptedEngine(answer=five, n_parallel=2), max_total_tokens=1000, **options)
    assert (rest.n_done, rest.n_skipped, rest.n_left, rest.n_total_tokens) == (5, 5, 0, 150)
    assert rest.failure(files.output) is None


def test_a_limit_that_not_one_line_is_sure_to_fit_says_what_to_do(files: Files) -> None:
    files.ask(*prompts(3))
    engine = ScriptedEngine()
    failure = files.run(engine, max_total_tokens=50).failure(files.output)
    assert engine.history == []
    assert failure is not None
    assert "--max-tokens" in (failure.hint or "")


def test_lines_that_are_answered_or_bad_need_no_tokens(files: Files) -> None:
    files.ask(*prompts(3))
    options = {"chat": ChatOptions(max_tokens=20)}
    files.run(ScriptedEngine(answer=five), **options)
    files.ask(*prompts(3), b"{")
    assert counts(files.run(max_total_tokens=45, **options)) == (0, 1, 3, 0)


def test_the_budget_counts_what_is_under_way() -> None:
    budget = TokenBudget(100, 20)
    assert budget.reserve(1, 50)
    assert not budget.reserve(2, 31)
    assert budget.reserve(2, 30)
    budget.settle(1, 10)
    assert budget.n_spent == 30
    assert budget.reserve(3, 40)
    assert not budget.reserve(4, 1)
    assert TokenBudget(None).reserve(1, 1 << 60)


def _job(number: int, n_bytes: int) -> BatchJob:
    request = parse_line(InputLine(number, b'{"prompt": "x"}', "00", n_bytes))
    assert isinstance(request, BatchRequest)
    return BatchJob(number, n_bytes, RecordKey(f"{number}", "", ""), request)


def test_the_time_left_goes_by_tokens() -> None:
    """Ten short lines done, one as long as a thousand of them left."""
    tally = BatchTally(n_lines=1, n_bytes=1000, n_passed=10)
    for number in range(10):
        job = _job(number, 10)
        tally.generate(job, 5)
        tally.end_attempt(job, TokenCounts(5, 0, 5))
        tally.answer(job, TokenCounts(5, 0, 5))
    assert tally.progress(2.0).seconds_left == pytest.approx(20.0)  # 100 tokens took 2 s; 1000 bytes are 1000 more
    half = _job(11, 1000)
    tally.n_bytes -= 1000
    tally.generate(half, 2)
    left = tally.progress(2.04).seconds_left
    assert left == pytest.approx(3 * 2.04 / 102)  # an answer of 5 tokens has 2
    assert BatchTally(5, 100).progress(1.0).seconds_left is None


@pytest.mark.parametrize("options", [{"parallel": 0}, {"n_retries": -1}, {"max_total_tokens": 0}])
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest):
        BatchOptions(**options)  # type: ignore[arg-type]


def test_an_answer_that_breaks_its_schema_is_asked_for_again(files: Files) -> None:
    """The double heeds no grammar: what comes is checked, also that an answer is whole."""
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
    body = {"messages": [{"role": "user", "content": "x"}], "response_format": form}
    line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    files.ask({"custom_id": "a", **line}, {"custom_id": "b", **line})
    engine = ScriptedEngine([['{"age": "old"}'], ['{"age"'], ['{"age": 5}'], ['{"age": null}'], ['{"age": 6}']])
    assert counts(files.run(engine, n_retries=2, parallel=1)) == (2, 0, 0, 0)
    assert files.answers["a"] == '{"age": 5}'
    files.output.unlink()
    assert counts(files.run(ScriptedEngine(answer=lambda _: ["no"]), n_retries=1)) == (0, 2, 0, 0)
    [record, _] = files.records
    assert (record["error"]["code"], record["qwenctl"]["attempts"]) == ("invalid_answer", 2)
    assert record["error"]["message"].startswith("the answer is not JSON")
    assert record["qwenctl"]["last_answer"]["choices"][0]["message"]["content"] == "no"


def test_a_schema_for_all_lines(files: Files) -> None:
    files.ask(*prompts(2))
    engine = ScriptedEngine([["[1]"], ["{}"], ["[]"]])
    chat = ChatOptions(answer_schema={"type": "array"})
    assert counts(files.run(engine, n_retries=1, parallel=1, chat=chat)) == (2, 0, 0, 0)
    assert sorted(files.answers.values()) == ["[1]", "[]"]
    with pytest.raises(InvalidRequest, match="other options"):
        files.run()


def test_embeddings(files: Files) -> None:
    """Among chats, and one that is none."""
    embed = {"method": "POST", "url": "/v1/embeddings"}
    files.ask(
        {"custom_id": "a", **embed, "body": {"input": ["four", [5, 6]]}},
        {"custom_id": "b", **embed, "body": {"input": "x", "encoding_format": "base64"}},
        *prompts(3),
    )
    summary = files.run()
    assert (counts(summary), summary.n_prompt_tokens) == ((5, 0, 0, 0), 6 + 1 + 30)
    bodies = {record["custom_id"]: record["response"]["body"] for record in files.records}
    assert bodies["a"]["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    first, second = (one["embedding"] for one in bodies["a"]["data"])
    assert first[0] / first[1] == pytest.approx(4 / ord("f"))
    assert second[0] / second[1] == pytest.approx(2 / 5)
    assert isinstance(bodies["b"]["data"][0]["embedding"], str)
    assert files.run(max_total_tokens=37).n_total_tokens == sum(
        body["usage"]["total_tokens"] for body in bodies.values()
    )


def test_tools_are_called_in_openai_s_form(files: Files) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    body = {"messages": [{"role": "user", "content": "x"}], "tools": [tool]}
    files.ask({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body})
    call = ["<tool_call>", '{"name": "add", "arguments": {"a": 1}}', "</tool_call>"]
    assert files.run(ScriptedEngine([["Wait. ", *call]], chat_template=QWEN3)).n_done == 1
    [choice] = files.records[0]["response"]["body"]["choices"]
    assert choice["finish_reason"] == "tool_calls"
    [made] = choice["message"]["tool_calls"]
    assert (made["function"]["name"], json.loads(made["function"]["arguments"])) == ("add", {"a": 1})
    files.output.unlink()
    assert "no place for tools" in str(files.run(ScriptedEngine()) and files.errors)


def test_a_call_that_is_cut_is_no_answer_in_a_schema(files: Files) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    body = {"messages": [{"role": "user", "content": "x"}], "tools": [tool], "response_format": form}
    body |= {"max_tokens": 2, "reasoning_effort": "none"}
    files.ask({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body})
    cut = ['<tool_call>{"name": "add", "arguments": {', '"a": ', "1}}</tool_call>"]
    assert files.run(ScriptedEngine([cut, ["5"]], chat_template=QWEN3), n_retries=1).n_done == 1
    assert files.records[0]["response"]["body"]["choices"][0]["message"]["content"] == "5"


def test_logprobs_and_a_budget_of_thinking(files: Files) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 1, "thinking_budget": 3}
    files.ask({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body})
    engine = ScriptedEngine([["<think>", *"abcdefghijk", "</think>", "yes"]], chat_template=QWEN3)
    assert files.run(engine).n_done == 1
    [request] = engine.history
    assert (request.n_logprobs, request.think and request.think.budget) == (1, 3)
    [choice] = files.records[0]["response"]["body"]["choices"]
    assert choice["logprobs"]["content"]
