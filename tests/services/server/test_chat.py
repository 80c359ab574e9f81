from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable

import pytest

from qwenctl.core import FinishReason, GenerationEvent
from qwenctl.errors import GenerationFailed
from qwenctl.services.engine_surface import TakeEvents
from qwenctl.services.server.http_connection import LimitedConnection
from tests.chat_templates import QWEN3, XML_CALLS
from tests.scripted_engine import ScriptedEngine
from tests.services.server.live_server import MESSAGES, live_server

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if enable_thinking %}<think>{% endif %}"
)


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")


def test_a_whole_answer() -> None:
    with live_server(lambda: ScriptedEngine([["Hi", " there"]])) as server:
        answer = server.chat(model="scripted", seed=5, temperature=0)
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        body = answer.json
        assert body["choices"][0]["message"]["content"] == "Hi there"
        assert (body["model"], body["usage"]["completion_tokens"], body["qwenctl"]["seed"]) == ("scripted", 2, 5)
        request = server.engines[0].history[0]
        assert (request.sampling.seed, request.sampling.temperature) == (5, 0)


def test_a_stream_with_reasoning() -> None:
    script = ["<think>", "hm", "</think>", "Hi", " there"]
    with live_server(lambda: ScriptedEngine([script], chat_template=TEMPLATE)) as server:
        answer = server.chat(stream=True, stream_options={"include_usage": True})
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.body.endswith(b"data: [DONE]\n\n")
        first, *chunks, usage = answer.events
        assert first["choices"][0]["delta"]["role"] == "assistant"
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert "".join(delta.get("reasoning", "") for delta in deltas) == "hm"
        assert "".join(delta.get("content") or "" for delta in deltas) == "Hi there"
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert usage["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
        assert len({chunk["id"] for chunk in answer.events}) == 1


def test_the_pieces_of_a_stream_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    made, found = LimitedConnection.connection_made, list[int]()

    def note(self: LimitedConnection, transport: asyncio.Transport) -> None:
        made(self, transport)
        connection = transport.get_extra_info("socket")
        found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(LimitedConnection, "connection_made", note)
    with live_server() as server:
        assert server.chat(stream=True).status == 200
    assert found == [1]


def test_several_answers_to_one_question() -> None:
    with live_server(lambda: ScriptedEngine([["a"], ["b"], ["c"]])) as server:
        body = server.chat(n=3, seed=7).json
        assert sorted(choice["message"]["content"] for choice in body["choices"]) == ["a", "b", "c"]
        assert [request.sampling.seed for request in server.engines[0].history] == [7, 8, 9]
        chunks = server.chat(n=2, stream=True).events
        assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1}


def test_many_at_once_keep_their_own_answers() -> None:
    import concurrent.futures

    with (
        live_server(lambda: ScriptedEngine(answer=list)) as server,
        concurrent.futures.ThreadPoolExecutor(16) as pool,
    ):

        def ask(number: int) -> str:
            messages = [{"role": "user", "content": f"number {number}"}]
            if number % 2:
                return str(server.chat(messages=messages).json["choices"][0]["message"]["content"])
            deltas = [chunk["choices"][0]["delta"] for chunk in server.chat(messages=messages, stream=True).events]
            return "".join(delta.get("content") or "" for delta in deltas)

        assert list(pool.map(ask, range(60))) == [f"number {number}" for number in range(60)]


def test_refusals_of_bodies() -> None:
    with live_server() as server:
        bad = server.chat(temperature=-1)
        assert (bad.status, bad.json["error"]["param"]) == (400, "temperature")
        assert server.chat(model="another").json["error"]["code"] == "model_not_found"
        long = server.chat(messages=[{"role": "user", "content": "x" * 5000}])
        assert (long.status, long.json["error"]["code"]) == (400, "context_length_exceeded")
        assert server.ask("POST", "/v1/chat/completions", b"{").json["error"]["message"].startswith("not JSON")
        assert server.ask("GET", "/v1/chat/completions").status == 405
        assert server.ask("GET", "/nothing").status == 404
        assert server.chat().status == 200


def test_an_engine_error_in_both_forms() -> None:
    broken = ["a", RuntimeError("it broke")]
    with live_server(lambda: ScriptedEngine([broken, broken])) as server:
        whole = server.chat()
        assert (whole.status, whole.json["error"]["message"]) == (500, "it broke")
        stream = server.chat(stream=True)
        assert stream.status == 200
        assert stream.events[-1]["error"]["code"] == "generation_failed"
        assert b"[DONE]" not in stream.body


def test_a_dead_engine_is_replaced() -> None:
    with live_server() as server:
        assert server.chat().status == 200
        server.engines[0].failure = GenerationFailed("the worker was lost")
        assert server.chat().status == 200
        assert (len(server.engines), server.engines[0].closed) == (2, True)


def test_a_client_that_goes_away_ends_its_answer() -> None:
    endless = ["x"] * 100_000
    with live_server(lambda: ScriptedEngine(answer=lambda _: endless, seconds_per_step=0.005)) as server:
        for stream in (True, False):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            body = json.dumps({"messages": MESSAGES, "stream": stream})
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            until(lambda: server.desk.admission.n_under_way == 1 and bool(server.engines[0].history))
            if stream:
                assert connection.getresponse().read(10)
            assert connection.sock is not None
            connection.sock.close()
            connection.close()
            until(lambda: server.desk.admission.n_under_way == 0)
        until(lambda: server.desk.host.counters.n_ended.get(FinishReason.CANCELLED) == 2)


def test_a_full_queue() -> None:
    from qwenctl.services.server.server_options import ServerLimits

    endless = ["x"] * 100_000
    engine = lambda: ScriptedEngine(answer=lambda _: endless, seconds_per_step=0.005)  # noqa: E731
    with live_server(engine, n_parallel=1, limits=ServerLimits(n_waiting=1)) as server:
        assert server.chat(n=3).status == 429
        connections = []
        for n in (1, 2):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            body = json.dumps({"messages": MESSAGES, "stream": True})
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            until(lambda n=n: server.desk.admission.n_under_way == n)
            connections.append(connection)
        full = server.chat()
        assert (full.status, full.json["error"]["type"]) == (429, "rate_limit_error")
        assert int(full.headers["retry-after"]) > 0
        for connection in connections:
            connection.close()
        until(lambda: server.desk.admission.n_under_way == 0)


def test_answer_now() -> None:
    endless = ["<think>", *["hm "] * 100_000]
    engine = lambda: ScriptedEngine([endless], seconds_per_step=0.005)  # noqa: E731
    with live_server(engine) as server:
        ended: list[str] = []
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        server.engines[0].end_thinking = lambda name: (ended.append(name), server.engines[0].cancel(name))[0]  # type: ignore[assignment,func-returns-value]
        body = json.dumps({"messages": MESSAGES, "stream": True})
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        name = json.loads(response.readline().decode().removeprefix("data: "))["id"]
        control = "/v1/chat/completions/control"
        assert server.ask("POST", control, {"id": name, "action": "stop"}).status == 400
        assert server.ask("POST", control, {"id": "x", "action": "reasoning_end"}).status == 404
        until(lambda: bool(server.engines[0].history))
        assert server.ask("POST", control, {"id": name, "action": "reasoning_end"}).json["success"] is True
        until(lambda: ended == [f"{name}-0"])
        response.read()
        connection.close()


TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
CALL = ["I look. <tool", '_call>\n{"name": "now", "argu', 'ments": {"zone": "UTC"}}\n</tool_call>']


def test_tools_in_both_apis() -> None:
    with live_server(lambda: ScriptedEngine([CALL] * 4, chat_template=QWEN3)) as server:
        whole = server.chat(tools=[TOOL]).json["choices"][0]
        assert (whole["finish_reason"], whole["message"]["content"]) == ("tool_calls", "I look.")
        call = whole["message"]["tool_calls"][0]
        assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("now", {"zone": "UTC"})
        deltas = [chunk["choices"][0] for chunk in server.chat(tools=[TOOL], stream=True).events]
        assert "".join(one["delta"].get("content") or "" for one in deltas) == "I look."
        opening, *calls = [call for one in deltas for call in one["delta"].get("tool_calls", [])]
        assert opening == call | {"index": 0, "id": opening["id"], "function": {"name": "now", "arguments": ""}}
        assert {one["index"] for one in calls} == {0}
        assert "".join(one["function"]["arguments"] for one in calls) == call["function"]["arguments"]
        assert deltas[-1]["finish_reason"] == "tool_calls"
        asked = {"messages": MESSAGES, "max_tokens": 99, "tools": [{"name": "now", "input_schema": {"type": "object"}}]}
        message = server.ask("POST", "/v1/messages", asked).json
        assert [block["type"] for block in message["content"]] == ["text", "tool_use"]
        assert (message["content"][1]["input"], message["stop_reason"]) == ({"zone": "UTC"}, "tool_use")
        events = server.ask("POST", "/v1/messages", asked | {"stream": True}).events
        starts = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
        assert (starts, events[-1]["type"]) == (["text", "tool_use"], "message_stop")
        pieces = [event["delta"]["partial_json"] for event in events if "partial_json" in event.get("delta", ())]
        assert json.loads("".join(pieces)) == {"zone": "UTC"}


class HaltingEngine(ScriptedEngine):
    """Generates no piece that is "halt" before it may go on."""

    go_on = threading.Event()

    def step(self, meanwhile: TakeEvents | None = None) -> list[GenerationEvent]:
        if self._active and self._active[0].script and self._active[0].script[0] == "halt":
            if meanwhile:
                meanwhile(())
            self.go_on.wait()
        return super().step(meanwhile)


IN_JSON = ['<tool_call>\n{"name": "now", "arguments": {"zone": "a', " very", "halt", ' long"}}', "\n</tool_call>"]
IN_TAGS = ["<tool_call>\n<function=now>\n<parameter=zone>\na", " very", "halt", "\n</parameter>\n</function>"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize(("script", "template"), [(IN_JSON, QWEN3), (IN_TAGS, XML_CALLS)])
def test_arguments_are_sent_before_the_call_has_ended(path: str, script: list[str], template: str) -> None:
    tool = TOOL if "chat" in path else {"name": "now", "input_schema": {"type": "object"}}
    body = {"messages": MESSAGES, "stream": True, "max_tokens": 99, "tools": [tool]}
    HaltingEngine.go_on.clear()
    with live_server(lambda: HaltingEngine([script], chat_template=template)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        try:
            assert any(b" very" in line for line in response)
            HaltingEngine.go_on.set()
            assert b"halt" in response.read()
        finally:
            HaltingEngine.go_on.set()
            connection.close()


def test_a_call_that_is_cut_says_so_streamed_or_whole() -> None:
    body = {"tools": [TOOL], "max_tokens": 3}
    with live_server(
        lambda: ScriptedEngine([[*CALL[:2], 'ments": {"zone": "U', 'TC"}}']] * 4, chat_template=QWEN3)
    ) as server:
        whole = server.chat(**body).json["choices"][0]
        assert whole["finish_reason"] == "length"
        assert whole["message"]["tool_calls"][0]["function"] == {"name": "now", "arguments": '{"zone": "U'}
        deltas = [chunk["choices"][0] for chunk in server.chat(stream=True, **body).events]
        assert deltas[-1]["finish_reason"] == "length"
        calls = [call["function"]["arguments"] for one in deltas for call in one["delta"].get("tool_calls", [])]
        assert "".join(calls) == '{"zone": "U'
        asked = {"messages": MESSAGES, "max_tokens": 3, "tools": [{"name": "now", "input_schema": {"type": "object"}}]}
        message = server.ask("POST", "/v1/messages", asked).json
        assert (message["stop_reason"], message["content"][1]["input"]) == (
            "max_tokens",
            {"INVALID_JSON": '{"zone": "U'},
        )
        events = server.ask("POST", "/v1/messages", asked | {"stream": True}).events
        assert [event["delta"]["stop_reason"] for event in events if event["type"] == "message_delta"] == ["max_tokens"]


def test_one_call_only_where_more_are_not_wanted() -> None:
    with live_server(lambda: ScriptedEngine([CALL + CALL] * 2, chat_template=QWEN3)) as server:
        asked = {"tools": [TOOL], "parallel_tool_calls": False}
        assert len(server.chat(**asked).json["choices"][0]["message"]["tool_calls"]) == 1
        deltas = [chunk["choices"][0]["delta"] for chunk in server.chat(stream=True, **asked).events]
        calls = [call for one in deltas for call in one.get("tool_calls", [])]
        assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"zone": "UTC"}
        assert {call["index"] for call in calls} == {0}


def test_a_schema_becomes_a_grammar() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}}}
    with live_server() as server:
        assert server.chat(response_format=form).status == 200
        assert "root ::=" in (server.engines[0].history[0].sampling.grammar or "")
        bad = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "pattern": "(a+)+$", "$ref": "x"}}}
        assert server.chat(response_format=bad).status == 400


def test_a_template_without_tools_refuses_them() -> None:
    with live_server(lambda: ScriptedEngine(chat_template=TEMPLATE)) as server:
        refused = server.chat(tools=[TOOL])
        assert (refused.status, refused.json["error"]["param"]) == (400, "tools")


def test_completions_and_embeddings() -> None:
    with live_server(lambda: ScriptedEngine([["a", "b"], ["c"], ["d", "e"], ["f"]])) as server:
        asked = {"prompt": ["one", "two"], "max_tokens": 5}
        whole = server.ask("POST", "/v1/completions", asked).json
        assert sorted(choice["text"] for choice in whole["choices"]) == ["ab", "c"]
        assert server.engines[0].prompts == ["one", "two"]
        assert whole["usage"]["prompt_tokens"] == 6
        chunks = server.ask("POST", "/v1/completions", asked | {"stream": True}).events
        texts = [
            "".join(one["choices"][0]["text"] for one in chunks if one["choices"][0]["index"] == n) for n in (0, 1)
        ]
        assert sorted(texts) == ["de", "f"]
        vectors = server.ask("POST", "/v1/embeddings", {"input": ["one", [1, 2]], "model": "scripted"}).json
        assert [entry["index"] for entry in vectors["data"]] == [0, 1]
        assert vectors["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


def test_a_prompt_is_counted_even_where_it_would_be_refused() -> None:
    with live_server() as server:
        asked = {"messages": [{"role": "user", "content": "x" * 5000}]}
        count = server.ask("POST", "/v1/messages/count_tokens", asked)
        assert (count.status, count.json) == (200, {"input_tokens": 5000})
        assert server.ask("POST", "/v1/messages", asked | {"max_tokens": 5}).status == 400
