"""Remote devices over loopback: they compute, and when one is killed there is one line of error and no dead program."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from qwenctl.core import Finished, FinishReason, GenerationRequest, SamplingParams, TextDelta
from qwenctl.errors import GenerationFailed, InvalidRequest, ModelLoadFailed
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.engine_child import Death
from qwenctl.services.engine_death import hint_of, reason_of
from qwenctl.services.engine_opening import open_engine
from qwenctl.services.generation import TextEngine
from qwenctl.services.rpc_servers import MAX_SERVERS, greet
from tests.services.rpc_server import answering, running_rpc_server

GREEDY = SamplingParams(temperature=0)
ENDLESS = 'root ::= "word " root'
QUESTION = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


def options(*endpoints: str) -> EngineOptions:
    return EngineOptions(n_ctx=2048, n_parallel=2, n_threads=1, rpc=endpoints)


def answer(engine: TextEngine) -> str:
    events = engine.generate(GenerationRequest("one", engine.tokenize(QUESTION), GREEDY, 60))
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_a_killed_server_ends_the_requests_and_names_itself(demo_gguf: Path) -> None:
    with Engine.open(demo_gguf, options()) as engine:
        expected = answer(engine)
    with (
        running_rpc_server() as kept,
        running_rpc_server() as lost,
        open_engine(demo_gguf, options(kept.endpoint, lost.endpoint)) as engine,
    ):
        assert answer(engine) == expected
        assert "Paris" in expected
        for name in ("one", "two"):
            engine.submit(GenerationRequest(name, engine.tokenize(name), SamplingParams(grammar=ENDLESS), 1000))
        for _ in range(3):
            assert engine.step()
        lost.kill()
        events = []
        while engine.has_work:
            events += engine.step()
        ended = [event for event in events if isinstance(event, Finished)]
        words = f"the connection to RPC device {lost.endpoint} was lost (ggml stopped the engine's process)"
        assert {(event.request_id, event.reason, event.error) for event in ended} == {
            ("one", FinishReason.ERROR, words),
            ("two", FinishReason.ERROR, words),
        }
        with pytest.raises(GenerationFailed) as failed:
            answer(engine)
        assert failed.value.message == words
        assert "start the RPC server again" in (failed.value.hint or "")
    with running_rpc_server() as again, open_engine(demo_gguf, options(again.endpoint)) as engine:
        assert answer(engine) == expected


# --- before anything is loaded ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "host", "host:", ":50052", "host:0", "host:65536", "host:1:2", "[::1]:5", "a b:1", "-h:1"]
)
def test_what_names_no_server_is_a_usage_error(name: str) -> None:
    with pytest.raises(InvalidRequest, match="names no RPC server"):
        options(name)


def test_too_many_servers_and_one_named_twice() -> None:
    with pytest.raises(InvalidRequest, match="named twice"):
        options("a:1", "b:1", "a:1")
    assert options(*(f"host{n}:1" for n in range(MAX_SERVERS)))
    with pytest.raises(InvalidRequest, match="at most 16"):
        options(*(f"host{n}:1" for n in range(MAX_SERVERS + 1)))


def test_servers_that_do_not_answer_as_they_should(demo_gguf: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        refused = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ModelLoadFailed, match=f"no RPC server at {refused}: Connection refused"):
        open_engine(demo_gguf.with_name("never-looked-at.gguf"), options(refused))
    with answering(lambda client: client.recv(33)) as closes, pytest.raises(ModelLoadFailed, match="is no RPC server"):
        greet(closes)
    with (
        answering(lambda client: client.sendall(b"HTTP/1.1 400 Bad Request\r\n")) as web,
        pytest.raises(ModelLoadFailed, match="is no RPC server"),
    ):
        greet(web)
    with (
        answering(lambda client: client.recv(33) and client.recv(1)) as silent,
        pytest.raises(ModelLoadFailed, match=r"does not answer within 0\.2 s") as failed,
    ):
        greet(silent, limit_s=0.2)
    assert "one at a time" in (failed.value.hint or "")


def test_a_server_that_serves_another_program_is_busy() -> None:
    with running_rpc_server() as server:
        greet(server.endpoint)
        host, port = server.endpoint.split(":")
        with (
            socket.create_connection((host, int(port))),
            pytest.raises(ModelLoadFailed, match="does not answer"),
        ):
            greet(server.endpoint, limit_s=0.2)
        greet(server.endpoint)


# --- what an end means -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("death", "words"),
    [
        (Death(-6, ("recv failed", "ggml-rpc.cpp:566: Remote RPC server crashed or …")), "connection to RPC device"),
        (Death(-6, ("RPC server version mismatch: 6.1.0", "RPC handshake failed for h:1")), "another version .*6.1.0"),
        (Death(-6, ("/b/ggml.c:1: GGML_ASSERT(n > 0) failed",)), r"crashed .*\(SIGABRT\): ggml.c:1: GGML_ASSERT"),
        (Death(-9, ()), "was killed"),
        (Death(-11, ()), r"crashed in the engine's process \(SIGSEGV\)$"),
        (Death(70, ("a message that is no JSON",)), "exit status 70.: a message that is no JSON"),
        (Death(-9, (), "a message that is cut off"), "it sent a message that is cut off"),
    ],
)
def test_the_reason_is_one_line(death: Death, words: str) -> None:
    with pytest.raises(GenerationFailed, match=words) as failed:
        raise GenerationFailed(reason_of(death, ("127.0.0.1:1",)), hint_of(death, ("127.0.0.1:1",)))
    assert "\n" not in failed.value.message
    assert "RPC device" not in reason_of(death, ())
