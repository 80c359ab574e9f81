"""Loading, unloading, switching and draining."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from qwenctl.services.server.asgi_answers import Refused
from qwenctl.services.server.model_host import ModelHost, ModelSource
from qwenctl.services.server.server_metrics import ServerMetrics
from qwenctl.services.server.server_options import ServerOptions
from tests.scripted_engine import ScriptedEngine
from tests.services.server.live_server import Answer, live_server
from tests.services.server.test_chat import until


def test_requests_while_the_model_loads() -> None:
    go = threading.Event()
    with live_server(on_open=lambda _: go.wait(20) and None, wait=False) as server:
        until(lambda: server.ask("GET", "/ready").status == 503)
        early = server.chat()
        assert (early.status, early.json["error"]["code"], early.headers["retry-after"]) == (503, "loading", "3")
        assert server.ask("GET", "/health").status == 200
        go.set()
        until(lambda: server.ask("GET", "/ready").status == 200)
        assert server.chat().status == 200


def test_a_server_is_not_ready_before_it_begins_to_load() -> None:
    """uvicorn takes connections a moment earlier."""
    source = ModelSource("scripted", lambda _: pytest.fail("loaded twice"), lambda: ())
    host, lazy = (ModelHost(source, ServerOptions(port=0, lazy=lazy), ServerMetrics()) for lazy in (False, True))
    assert (host.state, lazy.state) == ("loading", "empty")

    async def ask() -> None:
        async with host.lend(None):
            pass

    with pytest.raises(Refused) as refused:
        asyncio.run(ask())
    assert refused.value.error.code == "loading"


def test_loaded_with_the_first_request_and_unloaded_when_idle() -> None:
    with live_server(lazy=True, idle_unload_s=0.1) as server:
        assert server.engines == []
        assert server.ask("GET", "/v1/models").json["data"][0]["meta"] == {"loaded": False}
        assert server.ask("GET", "/ready").json["status"] == "empty"
        assert server.chat().status == 200
        until(lambda: server.engines[0].closed)
        until(lambda: server.ask("GET", "/ready").json["status"] == "empty")
        assert server.chat().status == 200
        assert len(server.engines) == 2
        metrics = server.ask("GET", "/metrics").body.decode()
        assert "qwenctl_model_loads_total 2.0" in metrics
        assert "qwenctl_engine_generated_tokens_total 4.0" in metrics  # of both


def test_an_answer_is_not_idle() -> None:
    slow = ["x"] * 30
    with live_server(lambda: ScriptedEngine([slow], seconds_per_step=0.02), lazy=True, idle_unload_s=0.1) as server:
        assert server.chat().json["choices"][0]["message"]["content"] == "x" * 30


def test_switching_waits_for_answers_under_way() -> None:
    opened: list[str] = []
    slow = ["x"] * 50
    with live_server(
        lambda: ScriptedEngine(answer=lambda _: slow, seconds_per_step=0.005),
        names=("one", "two"), allow_switch=True, on_open=opened.append,
    ) as server:  # fmt: skip
        assert [entry["id"] for entry in server.ask("GET", "/v1/models").json["data"]] == ["one", "two"]
        answers: dict[str, str] = {}

        def ask(model: str) -> None:
            answer = server.chat(model=model).json
            answers[model] = answer["model"] + answer["choices"][0]["message"]["content"]

        threads = [threading.Thread(target=ask, args=(name,)) for name in ("one", "two")]
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        for thread in threads:
            thread.join()
        assert answers == {"one": "one" + "x" * 50, "two": "two" + "x" * 50}
        assert opened == ["one", "two"]
        assert server.chat(model="three").status == 404


def test_the_end_does_not_wait_for_answers_that_another_model_waits_for() -> None:
    endless = ["x"] * 100_000
    answers: dict[str, Answer] = {}
    with live_server(
        lambda: ScriptedEngine(answer=lambda _: endless, seconds_per_step=0.005),
        names=("one", "two"), allow_switch=True,
    ) as server:  # fmt: skip

        def ask(model: str) -> None:
            answers[model] = server.chat(model=model)

        threads = [threading.Thread(target=ask, args=(name,)) for name in ("one", "two")]
        for n, thread in enumerate(threads, 1):
            thread.start()
            until(lambda n=n: server.desk.admission.n_under_way == n)
    for thread in threads:
        thread.join()
    assert [answers[name].json["error"]["code"] for name in ("one", "two")] == ["shutting_down"] * 2
    assert len(server.engines) == 1


def test_without_permission_nothing_is_switched() -> None:
    with live_server(names=("one", "two"), aliases=("gpt-4",)) as server:
        assert server.chat(model="two").status == 404
        assert server.ask("GET", "/v1/models/two").status == 404
        assert server.ask("GET", "/v1/models/gpt-4").json["id"] == "one"
        assert server.chat(model="gpt-4").json["model"] == "one"


def test_a_model_that_cannot_be_loaded() -> None:
    from qwenctl.errors import ModelLoadFailed

    problems = [ModelLoadFailed("it is damaged")]

    def fail(_: str) -> None:
        if problems:
            raise problems.pop()

    with live_server(lazy=True, on_open=fail) as server:
        answer = server.chat()
        assert (answer.status, answer.json["error"]["code"]) == (503, "load_failed")
        assert "it is damaged" in answer.json["error"]["message"]
        assert server.chat().status == 200


def test_draining() -> None:
    with live_server() as server:

        def drain() -> None:
            server.desk.admission.is_draining = True

        server.on_loop(drain)
        answer = server.chat()
        assert (answer.status, answer.json["error"]["code"], answer.headers["connection"]) == (
            503,
            "shutting_down",
            "close",
        )
        assert server.ask("GET", "/ready").status == 503
