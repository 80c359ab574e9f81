"""The official openai client, unmodified, against `qwenctl serve`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.clients.conftest import Server

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
ENDLESS = {"4071": -100, "4073": -100}  # <|endoftext|> and <|im_end|> of the demo: only leaving ends an answer
CITY: Any = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "population": {"type": "integer"}},
    "required": ["city", "population"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    """Return a client that does not try again by itself."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0, timeout=120) as client:
        yield client


def _quick(server: Server) -> Any:
    return {"model": server.model, "extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}


def test_a_question_is_answered(client: openai.OpenAI, server: Server) -> None:
    answer = client.chat.completions.create(messages=QUESTION, temperature=0, **_quick(server))
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_a_stream_says_the_same_as_the_whole_answer_and_ends_with_its_usage(
    client: openai.OpenAI, server: Server
) -> None:
    whole = client.chat.completions.create(messages=QUESTION, temperature=0, **_quick(server))
    chunks = list(
        client.chat.completions.create(
            messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}, **_quick(server)
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_reasoning_is_apart_from_the_answer_under_both_names(client: openai.OpenAI, server: Server) -> None:
    body = {"chat_template_kwargs": {"enable_thinking": True}}
    answer = client.chat.completions.create(model=server.model, messages=QUESTION, temperature=0, extra_body=body)
    message: Any = answer.choices[0].message
    assert message.reasoning
    assert message.reasoning == message.reasoning_content
    assert "<think>" not in message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert (answer.usage.completion_tokens_details.reasoning_tokens or 0) > 0


def test_an_answer_keeps_to_its_schema(client: openai.OpenAI, server: Server) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    answer = client.chat.completions.create(messages=QUESTION, response_format=form, max_tokens=200, **_quick(server))
    value = json.loads(answer.choices[0].message.content or "")
    assert set(value) == {"city", "population"}
    assert isinstance(value["city"], str)
    assert isinstance(value["population"], int)


def test_a_tool_is_called_and_its_result_is_used(client: openai.OpenAI, server: Server) -> None:
    asked: Any = [{"role": "user", "content": "How is the weather in Paris?"}]
    called = client.chat.completions.create(
        messages=asked, tools=[WEATHER], tool_choice="required", temperature=0, **_quick(server)
    )
    choice = called.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    call: Any = choice.message.tool_calls[0]
    assert call.function.name == "weather"
    assert set(json.loads(call.function.arguments)) == {"city"}
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear"}'}
    told: Any = [*asked, choice.message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(messages=told, tools=[WEATHER], max_tokens=60, **_quick(server))
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


def test_a_streamed_tool_call_comes_in_pieces_that_make_one(client: openai.OpenAI, server: Server) -> None:
    asked: Any = [{"role": "user", "content": "How is the weather in Paris?"}]
    chunks = client.chat.completions.create(
        messages=asked, tools=[WEATHER], tool_choice="required", temperature=0, stream=True, **_quick(server)
    )
    names, arguments, reasons, content = [], "", [], ""
    for chunk in chunks:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
            for call in choice.delta.tool_calls or []:
                if call.index == 0 and call.function:
                    names += [call.function.name] if call.function.name else []
                    arguments += call.function.arguments or ""
    assert names == ["weather"]
    assert set(json.loads(arguments)) == {"city"}
    assert reasons == ["tool_calls"]
    assert "tool_call" not in content


def test_the_stream_helper_puts_arguments_together_as_they_come(client: openai.OpenAI, server: Server) -> None:
    asked: Any = [{"role": "user", "content": "How is the weather in Paris?"}]
    said: Any = {"messages": asked, "tools": [WEATHER], "tool_choice": "required", "temperature": 0} | _quick(server)
    with client.chat.completions.stream(**said) as stream:
        events = list(stream)
        final: Any = stream.get_final_completion().choices[0]
    deltas = [event for event in events if event.type == "tool_calls.function.arguments.delta" and event.index == 0]
    call = final.message.tool_calls[0].function
    assert len([event for event in deltas if event.arguments_delta]) > 1
    assert "".join(event.arguments_delta for event in deltas) == call.arguments
    whole: Any = client.chat.completions.create(**said).choices[0]
    assert (call.name, call.arguments) == ("weather", whole.message.tool_calls[0].function.arguments)
    assert final.finish_reason == whole.finish_reason == "tool_calls"


def test_logprobs_belong_to_the_tokens_of_the_answer(client: openai.OpenAI, server: Server) -> None:
    answer = client.chat.completions.create(
        messages=QUESTION, temperature=0, logprobs=True, top_logprobs=3, max_tokens=5, **_quick(server)
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in logprobs.content)
    assert logprobs.content[0].token == logprobs.content[0].top_logprobs[0].token  # temperature 0: the likeliest
    shown = "".join(token.token for token in logprobs.content)
    assert shown.startswith(answer.choices[0].message.content or " ")


def test_a_seed_gives_the_same_answer_again_and_n_gives_several(client: openai.OpenAI, server: Server) -> None:
    def answers() -> list[str | None]:
        found = client.chat.completions.create(
            messages=QUESTION, temperature=1.5, seed=7, n=2, max_tokens=20, **_quick(server)
        )
        return [choice.message.content for choice in sorted(found.choices, key=lambda choice: choice.index)]

    assert answers() == answers()
    assert len(answers()) == 2


def test_a_stop_text_ends_the_answer_before_it(client: openai.OpenAI, server: Server) -> None:
    answer = client.chat.completions.create(messages=QUESTION, temperature=0, stop=["Paris"], **_quick(server))
    assert "Paris" not in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"


def test_completions_go_on_with_a_text(client: openai.OpenAI, server: Server) -> None:
    answer = client.completions.create(model=server.model, prompt="The capital of France is", max_tokens=8)
    assert answer.choices[0].text
    streamed = client.completions.create(model=server.model, prompt="One, two,", max_tokens=8, stream=True)
    assert "".join(choice.text for chunk in streamed for choice in chunk.choices)


def test_embeddings_of_like_texts_are_nearer(client: openai.OpenAI, server: Server) -> None:
    texts = ["The capital of France is Paris.", "Paris is the capital of France.", "7 times 6 is 42."]
    found = client.embeddings.create(model=server.model, input=texts).data
    first, second, other = (one.embedding for one in sorted(found, key=lambda one: one.index))

    def likeness(one: list[float], two: list[float]) -> float:
        return sum(a * b for a, b in zip(one, two, strict=True))

    assert likeness(first, first) == pytest.approx(1, abs=1e-3)
    assert likeness(first, second) > likeness(first, other)


def test_bad_requests_are_told_apart_by_the_clients_own_errors(client: openai.OpenAI, server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="message"):
        client.chat.completions.create(model=server.model, messages=[])
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model=server.model, messages=QUESTION, temperature=-1)
    with pytest.raises(openai.BadRequestError, match="tokens"):
        client.chat.completions.create(model=server.model, messages=[{"role": "user", "content": "word " * 5000}])
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_a_stream_that_is_left_is_cancelled(client: openai.OpenAI, server: Server) -> None:
    for _ in range(6):  # more than there are sequences: none may stay taken
        with client.chat.completions.create(
            messages=QUESTION, stream=True, logit_bias=ENDLESS, **_quick(server)
        ) as stream:
            next(iter(stream))
    answer = client.chat.completions.create(messages=QUESTION, temperature=0, **_quick(server))
    assert "Paris" in (answer.choices[0].message.content or "")


def test_many_are_answered_at_once(server: Server) -> None:
    async def ask_all() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key, timeout=120) as client:
            asked = [
                client.chat.completions.create(messages=QUESTION, temperature=0, **_quick(server)) for _ in range(12)
            ]
            return [one.choices[0].message.content for one in await asyncio.gather(*asked)]

    answers = asyncio.run(ask_all())
    assert len(answers) == 12
    assert all("Paris" in (answer or "") for answer in answers)
