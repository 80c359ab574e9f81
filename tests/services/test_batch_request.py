from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from qwenctl.core import Message
from qwenctl.errors import InvalidRequest
from qwenctl.services.api.chat_body import ChatBody
from qwenctl.services.api.completion_body import CompletionBody
from qwenctl.services.api.embedding_body import EmbeddingBody
from qwenctl.services.batch_input import BatchInput, InputLine
from qwenctl.services.batch_request import BadLine, BatchRequest, parse_line
from qwenctl.services.fingerprint_table import FingerprintTable, fingerprint
from qwenctl.services.generation import ChatOptions


def parse(content: Any, number: int = 7) -> BatchRequest | BadLine:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parse_line(InputLine(number, data, hashlib.sha256(data).hexdigest(), len(data)))


def good(content: Any) -> BatchRequest:
    request = parse(content)
    assert isinstance(request, BatchRequest), request
    return request


def chat(content: Any) -> ChatBody:
    parsed = good(content).parsed
    assert isinstance(parsed, ChatBody)
    return parsed


def openai(**body: Any) -> dict[str, Any]:
    messages = {"messages": [{"role": "user", "content": "Hello"}]}
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": messages | body}


def test_openai_line() -> None:
    line = openai(
        model="whatever",
        temperature=0,
        top_p=0.5,
        top_k=3,
        min_p=0.1,
        max_tokens=9,
        stop="END",
        seed=4,
        presence_penalty=1.5,
        repetition_penalty=1.1,
        n=1,
        stream=False,
        tools=[],
        frequency_penalty=None,
        chat_template_kwargs={"enable_thinking": False, "style": "short"},
    )
    request = chat(line)
    assert (good(line).custom_id, request.messages) == ("a", (Message("user", "Hello"),))
    options = request.options(ChatOptions(sampling={"seed": 1, "temperature": 1.0, "frequency_penalty": 0.5}))
    assert (options.thinking, options.max_tokens, options.stop) == (False, 9, ("END",))
    assert options.template_variables == {"style": "short"}
    assert options.sampling == {
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "seed": 4,
        "presence_penalty": 1.5,
        "repeat_penalty": 1.1,
        "frequency_penalty": 0.5,
    }
    assert chat(openai(max_tokens=9, max_completion_tokens=5)).max_tokens == 5


def test_plain_line() -> None:
    line = {"id": 17, "prompt": "Hello", "system": "Be kind.", "temperature": 0.5, "label": "x", "n": 3}
    assert good(line).custom_id == "17"
    assert chat(line).messages == (Message("system", "Be kind."), Message("user", "Hello"))
    assert chat(line).sampling == {"temperature": 0.5}
    defaults = ChatOptions(thinking=True, max_tokens=3, stop=("a",))
    assert chat(line).options(defaults) == ChatOptions(True, {"temperature": 0.5}, 3, ("a",))


def test_names_of_lines_without_one() -> None:
    first, again = good({"prompt": "a", "temperature": 1}), good(b'{ "temperature":1,  "prompt":"a" }')
    assert first.custom_id == again.custom_id == f"line-7-{first.sha256[:8]}"
    assert good({"prompt": "b"}).custom_id != first.custom_id


def test_messages_in_all_their_forms() -> None:
    call = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    messages = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": call, "reasoning_content": "hm"},
        {"role": "tool", "content": "5", "tool_call_id": "1"},
        {"role": "assistant", "content": "c", "reasoning": "ah"},
        {"role": "user", "content": "d"},
    ]
    assert chat(openai(messages=messages)).messages == (
        Message("system", "Be kind."),
        Message("user", "ab"),
        Message("assistant", "", "hm", {"tool_calls": [{**call[0], "function": {"name": "f", "arguments": {}}}]}),
        Message("tool", "5", None, {"tool_call_id": "1"}),
        Message("assistant", "c", "ah"),
        Message("user", "d"),
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON: Expecting property name"),
        (b'{"prompt": "a"} x', "not JSON: Extra data"),
        (b'"\xff"', "not UTF-8: byte 2"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b"[" * 100_000, "nested more than 100 levels"),
        (b'{"prompt": "a", "x": ' + b"[" * 101 + b"]" * 101 + b"}", "nested more than 100 levels"),
        (b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
        ([], "not a JSON object"),
        ("text", "not a JSON object"),
        (None, "not a JSON object"),
        ({}, "neither 'prompt' nor 'body'"),
        ({"prompt": 1}, "'prompt' must be text"),
        ({"prompt": ["a"]}, "'prompt' must be text"),
        ({"prompt": "a", "system": 1}, "'system' must be text"),
        ({"prompt": "a", "id": ["x"]}, "'custom_id' must be text"),
        ({"prompt": "a", "id": True}, "'custom_id' must be text"),
        ({"prompt": "a", "custom_id": ""}, "'custom_id' must be text"),
        ({"prompt": "a", "custom_id": "x" * 513}, "'custom_id' must be text"),
        (b'{"prompt": "a", "custom_id": "\\ud800"}', "'custom_id' must be text"),
        (openai() | {"custom_id": None}, "no 'custom_id'"),
        (openai() | {"method": "GET"}, "'method' must be"),
        (openai() | {"url": "/v1/audio"}, "'url' must be one of /v1/chat/completions, /v1/completions, /v1/embeddings"),
        (openai() | {"url": ["x"]}, "'url' must be one of"),
        (openai() | {"url": "/v1/completions"}, "unknown field \"messages\" in 'body'"),
        (openai() | {"url": "/v1/embeddings", "body": {"input": []}}, "'input' must be text, tokens"),
        (openai() | {"body": "x"}, "'body' must be an object"),
        (openai(messages=[]), "'messages' must be a list"),
        (openai(messages="x"), "'messages' must be a list"),
        (openai(messages=["x"]), "message 1 is not an object"),
        (openai(messages=[{"role": "robot", "content": "x"}]), "the role of message 1 must be one of system"),
        (openai(messages=[{"role": ["user"], "content": "x"}]), "the role of message 1"),
        (openai(messages=[{"role": "user"}]), "the content of message 1 must be text"),
        (openai(messages=[{"role": "user", "content": 1}]), "the content of message 1 must be text"),
        (openai(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "the content of message 1"),
        (openai(messages=[{"role": "user", "content": ["x"]}]), "the content of message 1"),
        (openai(messages=[{"role": "assistant", "content": "x", "reasoning": 1}]), "the reasoning of message 1"),
        (openai(temperature="hot"), "'temperature' must be a number"),
        (openai(temperature=True), "'temperature' must be a number"),
        (openai(top_k=1.5), "'top_k' must be a whole number"),
        (openai(seed="1"), "'seed' must be a whole number"),
        (openai(max_tokens=0), "'max_tokens' must be a whole number from 1"),
        (openai(max_completion_tokens=1.5), "'max_completion_tokens' must be"),
        (openai(stop=[""]), "'stop' must be text"),
        (openai(stop=3), "'stop' must be text"),
        (openai(stop=["x"] * 17), "at most 16"),
        (openai(n=17), "'n' must be a whole number from 1 to 16"),
        (openai(stream=True), "'stream' is not supported"),
        (openai(tools=[{"type": "function"}]), "tool 1 has no 'function'"),
        (openai(response_format={"type": "xml"}), "'response_format' must be"),
        (openai(temprature=1), "unknown field \"temprature\""),
        (openai(chat_template_kwargs=[1]), "'chat_template_kwargs' must be an object"),
        (openai(chat_template_kwargs={"messages": []}), "cannot set 'messages'"),
        (openai(chat_template_kwargs={"enable_thinking": "no"}), "'enable_thinking' must be true or false"),
    ],
)  # fmt: skip
def test_bad_lines(line: Any, reason: str) -> None:
    bad = parse(line)
    assert isinstance(bad, BadLine)
    assert reason in bad.message
    assert bad.custom_id in ("a", f"line-7-{bad.sha256[:8]}")


def test_lines_are_read_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a"}\r\n\n  \n' + b"x" * 50 + b"\nshort\n" + b"y" * 11)
    source = BatchInput(path, max_line_bytes=10)
    lines = list(source.lines())
    assert [(line.number, line.data) for line in lines] == [(1, b'{"a"}'), (4, None), (5, b"short"), (6, None)]
    assert lines[1].sha256 == hashlib.sha256(b"x" * 50 + b"\n").hexdigest()
    assert isinstance(parse_line(lines[1]), BadLine)
    assert source.count() == 6


@pytest.mark.parametrize(("content", "n_lines"), [(b"", 0), (b"\n", 1), (b"a", 1), (b"a\n", 1), (b"a\nb", 2)])
def test_count(tmp_path: Path, content: bytes, n_lines: int) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    assert BatchInput(path).count() == n_lines


def test_input_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        BatchInput(tmp_path / "missing")
    with pytest.raises(InvalidRequest, match="not a regular file"):
        BatchInput(tmp_path)


def test_fingerprint_table_is_a_dict_of_numbers() -> None:
    table, expected = FingerprintTable(), {}
    for number in range(5000):
        key = fingerprint(str(number % 3000).encode()) if number % 7 else number + 1
        table.put(key, number)
        expected[key] = number
    assert len(table) == len(expected)
    assert all(table.get(key) == value and key in table for key, value in expected.items())
    assert table.get(999_999) is None
    assert 999_999 not in table


def test_lines_of_one_file_may_ask_for_different_things() -> None:
    """Which url a line has is its own affair."""
    completion = {"custom_id": "b", "method": "POST", "url": "/v1/completions", "body": {"prompt": ["x", "y"], "n": 2}}
    embedding = {"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": {"input": "x"}}
    requests = [good(line) for line in (openai(), completion, embedding)]
    assert [type(request.parsed) for request in requests] == [ChatBody, CompletionBody, EmbeddingBody]
    assert [request.url for request in requests] == ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    assert requests[1].body == {"prompt": ["x", "y"], "n": 2}
    assert good({"prompt": "x", "label": 1}).body == {"messages": [{"role": "user", "content": "x"}]}
