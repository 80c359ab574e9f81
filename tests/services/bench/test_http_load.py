"""The load for servers: what is counted, when, and what a server may do to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import pytest

from qwenctl.errors import GenerationFailed, InvalidRequest
from qwenctl.services.bench import http_load
from qwenctl.services.bench.http_load import Answered, Target, run_load

Answer = Callable[[asyncio.StreamWriter, dict[str, object]], object]


class Server:
    """Answers requests as a test wants, on a free port; counts them."""

    def __init__(self, answer: Answer, n_per_connection: int = 1000) -> None:
        self.answer = answer
        self.n_per_connection = n_per_connection
        self.bodies: list[dict[str, object]] = []
        self.heads: list[str] = []
        self.n_connections = self.n_active = self.most_active = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.n_connections += 1
        for _ in range(self.n_per_connection):
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
            except asyncio.IncompleteReadError:
                break
            length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("Content-Length"))
            body = json.loads(await reader.readexactly(length))
            self.heads.append(head)
            self.bodies.append(body)
            self.n_active += 1
            self.most_active = max(self.most_active, self.n_active)
            await asyncio.sleep(0.005)
            self.answer(writer, body)
            await writer.drain()
            self.n_active -= 1
        writer.close()


def chunk(text: str) -> bytes:
    return f"{len(text.encode()):x}\r\n{text}\r\n".encode()


def event(value: object) -> bytes:
    return chunk(f"data: {json.dumps(value)}\n\n")


def streamed(writer: asyncio.StreamWriter, body: dict[str, object], *, done: bool = True) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(event({"choices": [{"delta": {"role": "assistant", "content": ""}}]}))
    writer.write(event({"choices": [{"delta": {"reasoning": "hm", "reasoning_content": "hm"}}]}))
    for text in ("a", "b"):
        writer.write(event({"choices": [{"delta": {"content": text}}]}))
    writer.write(event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}))
    writer.write(chunk("data: [DONE]\n\n" if done else ": nothing\n\n") + b"0\r\n\r\n")


def whole(writer: asyncio.StreamWriter, body: dict[str, object]) -> None:
    content = json.dumps({"usage": {"prompt_tokens": 7, "completion_tokens": 5}}).encode()
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content) + content)


def load(
    server: Server, prompts: Sequence[str], concurrency: int = 1, *, stream: bool = True, path: str = ""
) -> list[Answered]:
    async def run() -> list[Answered]:
        listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        async with listener:
            target = Target(f"http://127.0.0.1:{port}{path}", "some", "key", {"top_k": 1})
            return await asyncio.wait_for(run_load(target, prompts, concurrency, 9, stream=stream), 30)

    return asyncio.run(run())


def test_a_stream_s_pieces_and_the_server_s_own_counts() -> None:
    server = Server(streamed)
    (answer,) = load(server, ["hello"], path="/v1")
    assert answer.error is None
    assert (answer.n_prompt_tokens, answer.n_generated_tokens, len(answer.text_times_s)) == (7, 5, 3)
    assert answer.first_text_s is not None
    assert 0 < answer.first_text_s <= answer.ended_s - answer.started_s
    assert server.heads[0].startswith("POST /v1/chat/completions HTTP/1.1\r\n")
    assert "Authorization: Bearer key" in server.heads[0]
    assert server.bodies == [
        {
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 9,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "model": "some",
            "top_k": 1,
        }
    ]


def test_an_answer_in_one_piece() -> None:
    (answer,) = load(Server(whole), ["hello"], stream=False)
    assert (answer.n_generated_tokens, answer.text_times_s, answer.first_text_s, answer.error) == (5, (), None, None)


def test_so_many_at_a_time_on_kept_connections() -> None:
    server = Server(whole)
    answers = load(server, [str(number) for number in range(12)], 4, stream=False)
    assert len(answers) == 12
    assert (server.n_connections, server.most_active) == (4, 4)


def test_a_server_that_closes_after_each_answer_gets_each_request_once() -> None:
    server = Server(streamed, n_per_connection=1)
    answers = load(server, [str(number) for number in range(6)], 2)
    assert [answer.error for answer in answers] == [None] * 6
    assert sorted(str(body["messages"]) for body in server.bodies) == sorted(
        str([{"role": "user", "content": str(number)}]) for number in range(6)
    )


def test_what_goes_wrong_is_said() -> None:
    def refused(writer: asyncio.StreamWriter, body: dict[str, object]) -> None:
        writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nfull")

    (answer,) = load(Server(refused), ["hello"])
    assert answer.error == "HTTP/1.1 503 Busy: full"

    (answer,) = load(Server(lambda writer, body: streamed(writer, body, done=False)), ["hello"])
    assert answer.error == "the stream ended without [DONE]"

    (answer,) = load(Server(lambda writer, body: writer.close()), ["hello"])
    assert answer.error == "the connection was lost"

    async def nobody() -> None:
        await run_load(Target("http://127.0.0.1:9"), ["hello"], 1, 9, stream=True)

    with pytest.raises(GenerationFailed, match="nobody answers"):
        asyncio.run(nobody())


def test_a_request_that_nobody_answers_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_load, "LIMIT_S", 0.1)
    server = Server(lambda writer, body: None)
    answers = load(server, ["one", "two"])
    assert [answer.error for answer in answers] == ["no answer within 0.1 s"] * 2
    assert len({str(body) for body in server.bodies}) == len(server.bodies)


@pytest.mark.parametrize("url", ["https://127.0.0.1", "127.0.0.1:80", "http://", "ftp://host"])
def test_an_address_must_be_one_of_plain_http(url: str) -> None:
    with pytest.raises(InvalidRequest, match="plain HTTP"):
        Target(url)
