from __future__ import annotations

import json
from typing import Any

import pytest

from qwenctl.core import Message, TokenBias
from qwenctl.services.api.body_fields import BadRequest, parse_json
from qwenctl.services.api.chat_body import ChatBody, parse_chat_body
from qwenctl.services.generation import ChatOptions
from qwenctl.services.tools.tool_choice import ToolChoice

ASKED = [{"role": "user", "content": "Hello"}]
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}


def parse(**fields: Any) -> ChatBody:
    return parse_chat_body({"messages": ASKED} | fields)


def test_every_field_that_changes_the_answer() -> None:
    body = parse(
        model="m", temperature=0.5, top_k=-1, seed=-1, max_tokens=9, max_completion_tokens=5, stop=["a", "b"],
        logprobs=True, top_logprobs=3, logit_bias={"17": -100}, n=2, stream=True,
        stream_options={"include_usage": True}, chat_template_kwargs={"enable_thinking": False, "style": "short"},
        return_progress=True,
    )  # fmt: skip
    assert body == ChatBody(
        (Message("user", "Hello"),), "m", False, None, {"temperature": 0.5, "top_k": 0, "seed": 0xFFFF_FFFE}, 5,
        ("a", "b"), n_logprobs=3, logit_bias=(TokenBias(17, -100.0),), template_variables={"style": "short"}, n=2,
        stream=True, include_usage=True, reports_progress=True,
    )  # fmt: skip
    options = body.options(ChatOptions(sampling={"seed": 1, "min_p": 0.1}, think_budget=7))
    assert options.sampling == {"temperature": 0.5, "top_k": 0, "seed": 0xFFFF_FFFE, "min_p": 0.1}
    assert (options.think_budget, options.n_logprobs, options.max_tokens) == (7, 3, 5)


def test_what_says_nothing_about_the_answer_is_ignored() -> None:
    plain = parse()
    assert parse(user="u", metadata={"a": 1}, store=True, prediction={}, service_tier="auto", verbosity="low") == plain
    assert parse(whatever_a_client_adds=[1], n=None, stop=None, tools=None, modalities=["text"]) == plain
    with pytest.raises(BadRequest, match='unknown field "whatever"'):
        parse_chat_body({"messages": ASKED, "whatever": 1}, strict=True)


@pytest.mark.parametrize(
    ("fields", "thinking", "budget"),
    [
        ({}, None, None),
        ({"reasoning_effort": "none"}, False, None),
        ({"reasoning_effort": "low"}, True, 2048),
        ({"reasoning": {"effort": "high"}}, True, None),
        ({"thinking_budget": 100}, None, 100),
        ({"thinking_token_budget": 0}, False, None),
        ({"reasoning_effort": "medium", "enable_thinking": False}, False, 8192),
        ({"reasoning_effort": "medium", "thinking_budget": 5}, True, 5),
        ({"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}}, False, None),
    ],
)
def test_thinking(fields: dict[str, Any], thinking: bool | None, budget: int | None) -> None:
    body = parse(**fields)
    assert (body.thinking, body.think_budget) == (thinking, budget)


def test_tools_and_their_choice() -> None:
    body = parse(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "now"}}, parallel_tool_calls=False)
    assert body.tool_choice == ToolChoice("required", "now", False)
    assert body.offered_tools[0]["function"] == {"name": "now", "description": "", "parameters": {"type": "object"}}
    assert parse(tools=[TOOL], tool_choice="none").options(ChatOptions()).tools == ()


@pytest.mark.parametrize(
    ("form", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array"}}}, {"type": "array"}),
    ],
)
def test_answer_forms(form: dict[str, Any], schema: dict[str, Any] | None) -> None:
    assert parse(response_format=form).answer_schema == schema


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"temperature": 1e400}, "temperature", "must lie between"),
        ({"temperature": -1}, "temperature", "'temperature' must lie between 0"),
        ({"repetition_penalty": 0}, "repetition_penalty", "'repetition_penalty' must lie"),
        ({"top_p": "1"}, "top_p", "must be a number"),
        ({"top_k": 10**30}, "top_k", "must be a whole number from -1"),
        ({"seed": 1.5}, "seed", "must be a whole number"),
        ({"max_tokens": -1}, "max_tokens", "must be a whole number from 1"),
        ({"n": 0}, "n", "from 1 to 16"),
        ({"n": 17}, "n", "from 1 to 16"),
        ({"stream": 1}, "stream", "must be true or false"),
        ({"model": 1}, "model", "must be text"),
        ({"top_logprobs": 3}, "top_logprobs", "needs 'logprobs'"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "to 20"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "numbers of tokens"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "-100 to 100"),
        ({"logit_bias": {"1": True}}, "logit_bias", "-100 to 100"),
        ({"logit_bias": {str(i): 1 for i in range(2000)}}, "logit_bias", "more than"),
        ({"functions": [{"name": "f"}]}, "functions", "'functions' is not supported"),
        ({"guided_regex": "a*"}, "guided_regex", "not supported"),
        ({"modalities": ["audio"]}, "modalities", "not supported"),
        ({"min_tokens": 5}, "min_tokens", "not supported"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0]", "of the type \"function\""),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0]", "name of a tool"),
        ({"tool_choice": "required"}, "tool_choice", "there are no 'tools'"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "\"x\""),
        ({"tool_choice": ["auto"]}, "tool_choice", "must be"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "not \"xml\""),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema", "no schema"),
        ({"grammar": 'root ::= "a" root "b" | "a" root "c" | "d"'}, "grammar", "double without end"),
        ({"grammar": "root ::= (" * 2}, "grammar", "GBNF"),
        ({"response_format": {"type": "json_object"}, "grammar": "root ::= \"a\""}, "grammar", "exclude"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "one of none, minimal"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "cannot set"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": [*ASKED, {"role": "user", "content": [{"type": "image_url"}]}]}, "messages[1].content[0]",
         "\"image_url\": pictures"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages[0].tool_calls[0]",
         "must have a 'function'"),
        ({"messages": [{"role": "tool", "content": "a", "tool_call_id": 1}]}, "messages[0].tool_call_id", "text"),
    ],
)  # fmt: skip
def test_refusals_name_the_field(fields: dict[str, Any], param: str, reason: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(**fields)
    assert caught.value.param == param
    assert reason in caught.value.message


def test_a_body_that_is_no_object() -> None:
    for value in ([], "x", None, 1):
        with pytest.raises(BadRequest, match="must be a JSON object"):
            parse_chat_body(value)


def test_a_tools_turn_as_templates_want_it() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
    bad = {"function": {"name": "g", "arguments": "{half"}}
    messages = parse(messages=[{"role": "assistant", "tool_calls": [call, bad], "reasoning": "hm"}]).messages
    calls = messages[0].extra["tool_calls"]
    assert [one["function"]["arguments"] for one in calls] == [{"a": [1]}, "{half"]
    assert messages[0].reasoning == "hm"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"NaN", b'{"a": Infinity}', b"[" * 100_000, b"[" * 102 + b"]" * 102, b"9" * 5000]
)
def test_hostile_json(data: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_json(data)


def test_sound_json() -> None:
    value = {"a": [1, 2.5, None, "ü"], "b": json.loads("[" * 90 + "]" * 90)}
    assert parse_json(json.dumps(value).encode()) == value
