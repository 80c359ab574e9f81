from __future__ import annotations

import json
from typing import Any

import pytest

from qwenctl.core import FinishReason, Message, Timing, Usage
from qwenctl.services.api.anthropic_answer import anthropic_answer
from qwenctl.services.api.anthropic_body import parse_anthropic_body
from qwenctl.services.api.anthropic_events import AnthropicEvents
from qwenctl.services.api.body_fields import BadRequest
from qwenctl.services.api.chat_answer import ArgumentsDelta, CalledTool, ChatChoice
from qwenctl.services.api.chat_body import ChatBody
from qwenctl.services.reply import ReplyDone
from qwenctl.services.tools.tool_choice import ToolChoice

ASKED = [{"role": "user", "content": "Hello"}]


def parse(**fields: Any) -> ChatBody:
    return parse_anthropic_body({"messages": ASKED, "max_tokens": 9} | fields)


def done(reason: FinishReason = FinishReason.STOP, **fields: Any) -> ReplyDone:
    return ReplyDone(reason, Usage(10, 4, 6), Timing(0.0, 0.1, 0.2, 7), 3, None, "Hi", True, **fields)


def test_fields() -> None:
    tool = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
    body = parse(
        system=[{"type": "text", "text": "Be"}, {"type": "text", "text": "kind."}], temperature=0.5, top_k=3,
        stop_sequences=["x"], thinking={"type": "enabled", "budget_tokens": 2000}, tools=[tool], stream=True,
        tool_choice={"type": "any", "disable_parallel_tool_use": True}, metadata={"user_id": "u"},
    )  # fmt: skip
    assert body.messages == (Message("system", "Be\nkind."), Message("user", "Hello"))
    assert (body.thinking, body.think_budget, body.max_tokens, body.stop) == (True, 2000, 9, ("x",))
    assert body.tools[0]["function"] == {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert body.tool_choice == ToolChoice("required", None, False)
    assert parse().thinking is False


def test_a_turn_with_tools() -> None:
    messages = [
        *ASKED,
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "5"}]},
            {"type": "tool_result", "tool_use_id": "t2", "content": "broken", "is_error": True},
            {"type": "text", "text": "And?"},
        ]},
    ]  # fmt: skip
    call = {"id": "t1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    assert parse(messages=messages).messages == (
        Message("user", "Hello"),
        Message("assistant", "I look.", "hm", {"tool_calls": [call]}),
        Message("tool", "5", extra={"tool_call_id": "t1"}),
        Message("tool", "error: broken", extra={"tool_call_id": "t2"}),
        Message("user", "And?"),
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [*ASKED, {"role": "assistant", "content": "Hi"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": "x"}]}]},
         "messages[0].content[0].input"),
        ({"system": 5}, "system"),
        ({"system": [{"type": "image"}]}, "system[0]"),
        ({"thinking": {"type": "much"}}, "thinking.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": "x"}}, "budget_tokens"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0]"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config"),
        ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
        ({"temperature": "hot"}, "temperature"),
    ],
)  # fmt: skip
def test_refusals_name_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(**fields)
    assert caught.value.param == param


def test_counting_needs_no_limit() -> None:
    assert parse_anthropic_body({"messages": ASKED}, counts_only=True).max_tokens is None


def test_an_answer() -> None:
    call = CalledTool("t1", "f", '{"a": 1}')
    answer = anthropic_answer("msg_1", "m", ChatChoice(done(), "Hi", (call,)))
    assert answer["content"] == [
        {"type": "text", "text": "Hi"}, {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
    ]  # fmt: skip
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("tool_use", None)
    assert answer["usage"] == {
        "input_tokens": 6, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 6,
    }  # fmt: skip
    stopped = anthropic_answer("msg_1", "m", ChatChoice(done(stop_text="END"), "Hi"))
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "END")
    broken = CalledTool("t2", "f", '{"a', 1, is_whole=False)
    cut = anthropic_answer("msg_1", "m", ChatChoice(done(), "", (call, broken)))
    assert (cut["stop_reason"], cut["content"][1]["input"]) == ("end_turn", {"INVALID_JSON": '{"a'})
    full = anthropic_answer("msg_1", "m", ChatChoice(done(FinishReason.LENGTH), ""))
    assert (full["stop_reason"], full["content"]) == ("max_tokens", [{"type": "text", "text": ""}])


def test_a_stream() -> None:
    events = AnthropicEvents("msg_1", "m")
    data = (
        events.start(10) + events.reasoning("hm") + events.reasoning(" so") + events.text("Hi") + events.text("!")
        + events.call(CalledTool("t1", "f", "")) + events.arguments(ArgumentsDelta(0, '{"a":'))
        + events.arguments(ArgumentsDelta(0, ' 1}')) + events.call(CalledTool("t2", "g", "", 1))
        + events.arguments(ArgumentsDelta(1, "{}")) + events.end(done(), calls_tools=True)
    )  # fmt: skip
    found = []
    for block in data.decode().strip().split("\n\n"):
        name, value = (line.partition(": ")[2] for line in block.split("\n"))
        value = json.loads(value)
        assert value["type"] == name
        found.append((name, value))
    assert [name.removeprefix("content_block_") for name, _ in found] == [
        "message_start", "ping", "start", "delta", "delta", "delta", "stop", "start", "delta", "delta", "stop",
        "start", "delta", "delta", "stop", "start", "delta", "stop", "message_delta", "message_stop",
    ]  # fmt: skip
    pieces = [value["delta"]["partial_json"] for _, value in found if "partial_json" in value.get("delta", ())]
    assert pieces == ['{"a":', " 1}", "{}"]
    starts = [value["content_block"]["type"] for name, value in found if name == "content_block_start"]
    assert starts == ["thinking", "text", "tool_use", "tool_use"]
    assert [value["index"] for name, value in found if name == "content_block_stop"] == [0, 1, 2, 3]
    assert found[-2][1]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    empty = AnthropicEvents("msg_1", "m")
    assert b'"text":""' in empty.end(done(), calls_tools=False)
