from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from qwenctl.core import FinishReason, PromptProgress, Timing, TokenChance, TokenLogprob, Usage
from qwenctl.errors import ModelNotFound, PromptTooLong, QwenctlError
from qwenctl.services.api.answer_head import AnswerHead
from qwenctl.services.api.api_errors import api_error
from qwenctl.services.api.body_fields import BadRequest
from qwenctl.services.api.chat_answer import ArgumentsDelta, CalledTool, ChatChoice, chat_answer
from qwenctl.services.api.chat_chunks import ChatChunks
from qwenctl.services.api.completion_answer import CompletionChunks, TextChoice, completion_answer
from qwenctl.services.api.completion_body import parse_completion_body
from qwenctl.services.api.embedding_body import embedding_answer, parse_embedding_body
from qwenctl.services.generation import ChatOptions
from qwenctl.services.reply import ReplyDone

HEAD = AnswerHead("chatcmpl-1", "m", 17, "fp")
CHANCES = (
    TokenLogprob(TokenChance(1, "ü", -0.5), (TokenChance(1, "ü", -0.5), TokenChance(2, "b", float("-inf")))),
    TokenLogprob(TokenChance(3, "cd", -1.0), ()),
)


def done(answer: str = "Hi", reason: FinishReason = FinishReason.STOP, **fields: Any) -> ReplyDone:
    usage, timing = Usage(10, 4, 6), Timing(0.0, 0.1, 0.2, 7)
    return ReplyDone(reason, usage, timing, 3, fields.pop("reasoning", None), answer, True, **fields)


def event(data: bytes) -> Any:
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    assert data.count(b"\n") == 2
    return json.loads(data[6:])


def test_a_chat_answer() -> None:
    call = CalledTool("c1", "f", "{}")
    choices = [ChatChoice(done(reasoning="hm"), "Hi", (), CHANCES), ChatChoice(done(), "", (call,))]
    answer = chat_answer(HEAD, choices)
    assert {name: answer[name] for name in ("id", "object", "created", "model", "system_fingerprint")} == {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 17, "model": "m", "system_fingerprint": "fp",
    }  # fmt: skip
    first, second = answer["choices"]
    assert first["message"]["reasoning"] == first["message"]["reasoning_content"] == "hm"
    assert (first["message"]["content"], first["finish_reason"]) == ("Hi", "stop")
    assert first["logprobs"]["content"][0]["bytes"] == [0xC3, 0xBC]
    assert first["logprobs"]["content"][0]["top_logprobs"][1]["logprob"] == -9999.0
    assert (second["message"]["content"], second["finish_reason"]) == (None, "tool_calls")
    assert second["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    ]
    broken = chat_answer(HEAD, [ChatChoice(done(), "", (call, CalledTool("c2", "f", "{", 1, is_whole=False)))])
    assert broken["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"] == {
        "prompt_tokens": 10, "completion_tokens": 12, "total_tokens": 22,
        "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 6},
    }  # fmt: skip


def test_chat_chunks() -> None:
    chunks = ChatChunks(HEAD, include_usage=True)
    assert event(chunks.first(0))["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": "", "refusal": None}, "logprobs": None,
         "finish_reason": None}
    ]  # fmt: skip
    assert event(chunks.reasoning(1, "a\n\"b\""))["choices"][0]["delta"] == {
        "reasoning": 'a\n"b"', "reasoning_content": 'a\n"b"',
    }  # fmt: skip
    said = event(chunks.text(2, "ü\u2028", CHANCES))
    assert (said["object"], said["usage"], said["choices"][0]["index"]) == ("chat.completion.chunk", None, 2)
    assert said["choices"][0]["delta"] == {"content": "ü\u2028"}
    assert [one["token"] for one in said["choices"][0]["logprobs"]["content"]] == ["ü", "cd"]
    call = event(chunks.call(0, CalledTool("c1", "f", "", 1)))["choices"][0]["delta"]["tool_calls"]
    assert call == [{"index": 1, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}]
    delta = event(chunks.arguments(2, ArgumentsDelta(1, '{"a": "\\n')))["choices"][0]
    assert (delta["index"], delta["finish_reason"]) == (2, None)
    assert delta["delta"] == {"tool_calls": [{"index": 1, "function": {"arguments": '{"a": "\\n'}}]}
    assert event(chunks.last(0, done(), calls_tools=True))["choices"][0]["finish_reason"] == "tool_calls"
    assert event(chunks.last(0, done(reason=FinishReason.LENGTH), calls_tools=True))["choices"][0] == {
        "index": 0, "delta": {}, "logprobs": None, "finish_reason": "length",
    }  # fmt: skip
    usage = event(chunks.usage([done(), done()]))
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 12)
    assert event(chunks.progress(0, PromptProgress("r", 5, 2, 9)))["prompt_progress"] == {
        "total": 9, "cache": 2, "processed": 5,
    }  # fmt: skip
    plain = ChatChunks(HEAD)
    assert plain.usage([done()]) == b""
    assert "usage" not in event(plain.text(0, "a"))


def test_completions() -> None:
    body = parse_completion_body({"prompt": ["a", [1, 2]], "n": 2, "logprobs": 1, "stop": "x"})
    assert (body.prompts, body.n, body.n_logprobs, body.max_tokens) == (("a", (1, 2)), 2, 1, 16)
    assert body.options(ChatOptions(think_budget=4, max_tokens=99)).max_tokens == 16
    answer = completion_answer(HEAD, [TextChoice(done("a"), CHANCES), TextChoice(done("b"))] * 2, 2)
    assert [one["text"] for one in answer["choices"]] == ["a", "b", "a", "b"]
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["ü", "cd"], "token_logprobs": [-0.5, -1.0], "text_offset": [0, 1],
        "top_logprobs": [{"ü": -0.5, "b": -9999.0}, {}],
    }  # fmt: skip
    assert answer["usage"]["prompt_tokens"] == 20
    chunks = CompletionChunks(HEAD)
    assert event(chunks.text(1, "cd", CHANCES[1:], offset=4))["choices"][0]["logprobs"]["text_offset"] == [4]
    assert event(chunks.last(0, done()))["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
    ],
)
def test_completions_that_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_completion_body(fields)
    assert caught.value.param == param


def test_embeddings() -> None:
    body = parse_embedding_body({"input": "a", "encoding_format": "base64", "model": "m"})
    assert (body.inputs, body.as_base64) == (("a",), True)
    answer = embedding_answer([[1.0, -2.0]], 3, model="m", as_base64=True)
    assert struct.unpack("<2f", base64.b64decode(answer["data"][0]["embedding"])) == (1.0, -2.0)
    assert embedding_answer([[1.0]], 3, model="m", as_base64=False)["data"][0]["embedding"] == [1.0]
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_errors_in_both_shapes() -> None:
    bad = api_error(BadRequest("no", "messages[0]", "x"))
    assert (bad.status, bad.openai()["error"]) == (
        400, {"message": "no", "type": "invalid_request_error", "param": "messages[0]", "code": "x"},
    )  # fmt: skip
    assert bad.anthropic() == {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    assert api_error(PromptTooLong(9, 8)).code == "context_length_exceeded"
    assert api_error(ModelNotFound("x")).status == 404
    assert api_error(QwenctlError("x")).status == 500
