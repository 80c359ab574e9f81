"""The official anthropic client, unmodified, against `qwenctl serve`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.clients.conftest import Server

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
OFF: Any = {"type": "disabled"}
COLD = {"temperature": 0}  # the client itself has no such argument any more
WEATHER: Any = {
    "name": "weather",
    "description": "The weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    """Return a client that does not try again by itself."""
    with anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0, timeout=120) as client:
        yield client


def _texts(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_question_is_answered(client: anthropic.Anthropic, server: Server) -> None:
    message = client.messages.create(
        model=server.model, max_tokens=100, messages=QUESTION, extra_body=COLD, thinking=OFF, system="Be brief."
    )
    assert "Paris" in _texts(message)
    assert message.stop_reason == "end_turn"
    assert message.usage.input_tokens > 0
    assert message.usage.output_tokens > 0


def test_a_stream_says_the_same_and_keeps_the_clients_own_order_of_events(
    client: anthropic.Anthropic, server: Server
) -> None:
    asked: Any = {
        "model": server.model,
        "max_tokens": 100,
        "messages": QUESTION,
        "extra_body": COLD,
        "thinking": OFF,
    }
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == _texts(whole) == _texts(final)
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_thinking_is_a_block_of_its_own(client: anthropic.Anthropic, server: Server) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    message = client.messages.create(model=server.model, max_tokens=1500, messages=QUESTION, thinking=thinking)
    kinds = [block.type for block in message.content]
    assert kinds == ["thinking", "text"]
    assert "<think>" not in _texts(message)


def test_a_tool_is_called_and_its_result_is_used(client: anthropic.Anthropic, server: Server) -> None:
    asked: Any = [{"role": "user", "content": "How is the weather in Paris?"}]
    forced: Any = {"type": "any"}
    message = client.messages.create(
        model=server.model, max_tokens=100, messages=asked, tools=[WEATHER], tool_choice=forced, thinking=OFF
    )
    assert message.stop_reason == "tool_use"
    call: Any = next(block for block in message.content if block.type == "tool_use")
    assert call.name == "weather"
    assert set(call.input) == {"city"}
    result: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "clear"}]}
    said: Any = {"role": "assistant", "content": [block.model_dump() for block in message.content]}
    answer = client.messages.create(
        model=server.model, max_tokens=60, messages=[*asked, said, result], tools=[WEATHER], thinking=OFF
    )
    assert answer.content


def test_a_streamed_tool_call_is_put_together_by_the_client(client: anthropic.Anthropic, server: Server) -> None:
    asked: Any = [{"role": "user", "content": "How is the weather in Paris?"}]
    forced: Any = {"type": "tool", "name": "weather"}
    with client.messages.stream(
        model=server.model, max_tokens=200, messages=asked, tools=[WEATHER], tool_choice=forced, thinking=OFF,
        extra_body=COLD,
    ) as stream:  # fmt: skip
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    assert len(pieces) > 1
    call: Any = next(block for block in final.content if block.type == "tool_use")
    assert set(call.input) == {"city"}
    assert call.input == json.loads("".join(pieces))
    assert final.stop_reason == "tool_use"


def test_a_limit_and_a_stop_text_say_why_the_answer_ended(client: anthropic.Anthropic, server: Server) -> None:
    asked: Any = {"model": server.model, "messages": QUESTION, "thinking": OFF, "extra_body": COLD}
    assert client.messages.create(max_tokens=1, **asked).stop_reason == "max_tokens"
    stopped = client.messages.create(max_tokens=100, stop_sequences=["Paris"], **asked)
    assert stopped.stop_reason == "stop_sequence"
    assert stopped.stop_sequence == "Paris"
    assert "Paris" not in _texts(stopped)


def test_tokens_are_counted_as_the_prompt_has_them(client: anthropic.Anthropic, server: Server) -> None:
    counted = client.messages.count_tokens(model=server.model, messages=QUESTION, thinking=OFF)
    message = client.messages.create(model=server.model, max_tokens=5, messages=QUESTION, thinking=OFF)
    read = message.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == message.usage.input_tokens + read


def test_bad_requests_are_told_apart_by_the_clients_own_errors(client: anthropic.Anthropic, server: Server) -> None:
    with pytest.raises(anthropic.BadRequestError, match="message"):
        client.messages.create(model=server.model, max_tokens=10, messages=[])
    picture: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    with pytest.raises(anthropic.BadRequestError, match="image"):
        client.messages.create(model=server.model, max_tokens=10, messages=[{"role": "user", "content": [picture]}])
    with (
        anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(model=server.model, max_tokens=10, messages=QUESTION)


def test_a_stream_that_is_left_is_cancelled(client: anthropic.Anthropic, server: Server) -> None:
    for _ in range(6):
        with client.messages.stream(model=server.model, max_tokens=1500, messages=QUESTION) as stream:
            next(iter(stream))
    message = client.messages.create(model=server.model, max_tokens=100, messages=QUESTION, thinking=OFF)
    assert _texts(message)
