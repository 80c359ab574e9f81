"""Lines sent to servers: what is sent, faults of all kinds, servers that die, and going on afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from qwenctl.errors import GenerationFailed, InvalidRequest, ServerUnreachable
from qwenctl.services import batch_remote
from qwenctl.services.batch import BatchOptions, BatchSummary, run_batch
from qwenctl.services.batch_remote import ServedModel
from qwenctl.services.batch_server import BatchServer
from qwenctl.services.batch_servers import find_servers
from qwenctl.services.generation import ChatModel, ChatOptions
from qwenctl.services.http_pools import HttpPools
from qwenctl.services.hub.backoff import RetryPolicy
from qwenctl.services.server_choice import ServerAddress, ServerChoice
from qwenctl.settings import NetworkSettings
from tests.scripted_engine import ScriptedEngine
from tests.services.batch_files import Files, counts, prompts
from tests.services.fake_openai_server import FakeServer, Fault

SILENCE_S = 0.5


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of patience in hundredths of a second."""
    monkeypatch.setattr(batch_remote, "PATIENCE", RetryPolicy(n_attempts=6, first_s=0.01, most_s=0.1))


@pytest.fixture
def pools() -> Iterator[HttpPools]:
    """Connections; a proxy is set that must not be used for this machine."""
    pools = HttpPools(NetworkSettings(proxies={"all": "http://127.0.0.1:9"}), 8)
    yield pools
    pools.close()


def served(fake: FakeServer, pools: HttpPools, parallel: int | None = None) -> ServedModel:
    server = BatchServer(ServerAddress.parse(fake.url), fake.key, pools, SILENCE_S)
    model = server.model(None)
    return ServedModel(server, model.name, parallel or model.n_parallel or 1, model.identity)


def run(files: Files, servers: Sequence[ServedModel], model: ChatModel | None = None, **options: Any) -> BatchSummary:
    chosen = BatchOptions(**{"parallel": 2, "n_retries": 2, **options})
    return run_batch(model, files.input, files.output, chosen, servers=servers)


def test_lines_go_to_a_server_with_what_the_batch_says(files: Files, pools: HttpPools) -> None:
    call = {"type": "function", "function": {"name": "f", "parameters": {}}}
    own = {"messages": [{"role": "system", "content": "own"}, {"role": "user", "content": "b"}], "tools": [call]}
    own |= {"temperature": 0.5, "model": "ignored", "max_completion_tokens": 7, "seed": 3}
    files.ask(
        {"custom_id": "a", "prompt": "a", "label": "mine"},
        {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": own},
        {"custom_id": "c", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}},
        {"custom_id": "d", "method": "POST", "url": "/v1/embeddings", "body": {"input": "x"}},
        {"custom_id": "e", "prompt": 1},
    )
    chat = ChatOptions(thinking=False, sampling={"temperature": 0.1, "top_k": 4}, max_tokens=9, stop=("END",))
    with FakeServer(key="secret", model="m/1") as fake:
        assert counts(run(files, [served(fake, pools)], chat=chat, system="shared")) == (4, 1, 0, 0)
    by_kind = {
        body.get("messages", [{}])[-1].get("content") or ("c" if "prompt" in body else "d"): body
        for body in fake.bodies
    }
    assert by_kind["a"] == {
        "model": "m/1",
        "messages": [{"role": "system", "content": "shared"}, {"role": "user", "content": "a"}],
        "temperature": 0.1,
        "top_k": 4,
        "max_tokens": 9,
        "stop": ["END"],
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert by_kind["b"] == {
        **own,
        "model": "m/1",
        "top_k": 4,
        "stop": ["END"],
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert by_kind["c"] == {"model": "m/1", "prompt": "x", "temperature": 0.1, "top_k": 4, "stop": ["END"]}
    assert by_kind["d"] == {"model": "m/1", "input": "x"}
    records = {record["custom_id"]: record for record in files.records}
    assert records["a"]["response"]["body"]["choices"][0]["message"]["content"] == "1 characters"
    assert records["a"]["qwenctl"]["server"] == fake.url
    assert "secret" not in files.output.read_text()


def test_as_many_at_once_as_the_server_can(files: Files, pools: HttpPools) -> None:
    files.ask(*prompts(12))

    def slowly(_number: int, _body: Mapping[str, Any]) -> None:
        time.sleep(0.03)

    with FakeServer(slowly, n_parallel=3) as fake:
        assert counts(run(files, [served(fake, pools)])) == (12, 0, 0, 0)
    assert fake.most_active == 3


@pytest.mark.parametrize("fault", [500, 502, 429, 503, "cut", "garbage", "drop", "nothing", "hang"])
def test_a_fault_now_and_then_costs_nothing(files: Files, pools: HttpPools, fault: int | Fault) -> None:
    files.ask(*prompts(9))

    def plan(number: int, _body: Mapping[str, Any]) -> int | Fault | None:
        return fault if number in (1, 4, 5) else None

    with FakeServer(plan, n_parallel=2) as fake:
        assert counts(run(files, [served(fake, pools)], n_retries=3)) == (9, 0, 0, 0)
        assert len(fake.bodies) == 12
    assert len(files.answers) == 9


def test_a_line_that_no_server_can_answer_is_an_error_and_the_rest_goes_on(files: Files, pools: HttpPools) -> None:
    files.ask(*prompts(6))

    def plan(_number: int, body: Mapping[str, Any]) -> int | None:
        return {"question 1": 500, "question 3": 400}.get(body["messages"][0]["content"])

    with FakeServer(plan, n_parallel=1) as one, FakeServer(plan, n_parallel=1) as other:
        summary = run(files, [served(one, pools), served(other, pools)])
    assert (counts(summary), summary.n_retries) == ((4, 2, 0, 0), 2)
    assert files.errors["id-3"] == "the server refuses the line: 400: planned 400"
    assert files.errors["id-1"].endswith(": 500: planned 500")
    assert (one.prompts + other.prompts).count("question 1") == 3
    assert {"question 1"} <= set(one.prompts) & set(other.prompts)  # not twice where it failed


def test_a_dead_server_s_lines_go_to_the_others(files: Files, pools: HttpPools) -> None:
    files.ask(*prompts(40))
    with FakeServer(n_parallel=4) as one:
        other = FakeServer(n_parallel=4)

        def plan(number: int, _body: Mapping[str, Any]) -> Fault | None:
            time.sleep(0.005)
            if number == 5:
                threading.Thread(target=other.close).start()
            return "drop" if number >= 5 else None

        other.plan = plan
        servers = [served(one, pools), served(other, pools)]
        assert counts(run(files, servers, n_retries=5)) == (40, 0, 0, 0)
    assert len(files.answers) == 40


def test_all_dead_is_a_clean_stop_and_the_next_run_goes_on(files: Files, pools: HttpPools) -> None:
    files.ask(*prompts(30))
    with FakeServer(lambda number, _body: None if number < 10 else 503, n_parallel=2) as one:
        with pytest.raises(GenerationFailed, match="503: planned 503") as failure:
            run(files, [served(one, pools)])
        assert "the same command" in (failure.value.hint or "")
    n_done = len(files.answers)
    assert n_done == 10
    with FakeServer() as other:
        assert counts(run(files, [served(other, pools)])) == (20, 0, 10, 0)
    assert len(other.bodies) == 20


def test_the_server_s_own_time_is_waited_for(files: Files, pools: HttpPools) -> None:
    files.ask(*prompts(2))
    with FakeServer(lambda number, _body: 429 if number == 0 else None, retry_after="1", n_parallel=1) as fake:
        begin = time.monotonic()
        assert counts(run(files, [served(fake, pools)])) == (2, 0, 0, 0)
        assert time.monotonic() - begin >= 1.0


def test_a_refused_key_ends_it_at_once(files: Files, pools: HttpPools) -> None:
    files.ask(*prompts(3))
    with FakeServer(lambda _number, _body: 401) as fake:
        with pytest.raises(GenerationFailed, match=r"refuses the key \(401\)"):
            run(files, [served(fake, pools)])
        fake.key = "other"
        with pytest.raises(InvalidRequest, match="refuses the key"):
            BatchServer(ServerAddress.parse(fake.url), "wrong", pools, 1.0).model(None)


def test_beside_a_model_opened_here(files: Files, pools: HttpPools) -> None:
    files.ask(*prompts(60))
    engine = ScriptedEngine(n_parallel=2, seconds_per_step=0.005)

    def slowly(_number: int, _body: Mapping[str, Any]) -> None:
        time.sleep(0.01)

    with FakeServer(slowly, n_parallel=2) as fake:
        assert counts(run(files, [served(fake, pools)], ChatModel(engine))) == (60, 0, 0, 0)
    assert len(engine.history) + len(fake.bodies) == 60
    assert min(len(engine.history), len(fake.bodies)) > 5


def test_an_engine_that_dies_leaves_its_lines_to_the_servers(files: Files, pools: HttpPools) -> None:
    files.ask(*prompts(10))
    engine = ScriptedEngine(n_parallel=2)

    def answer(_: str) -> Sequence[str | Exception]:
        engine.failure = GenerationFailed("the worker was lost")
        return [RuntimeError("lost")]

    engine.answer = answer
    with FakeServer(lambda _number, _body: time.sleep(0.01), n_parallel=2) as fake:  # type: ignore[func-returns-value]
        assert counts(run(files, [served(fake, pools)], ChatModel(engine))) == (10, 0, 0, 0)


def test_other_models_are_refused_and_other_servers_are_not(files: Files, pools: HttpPools) -> None:
    files.ask(*prompts(4))
    with FakeServer(model="m") as one, FakeServer(model="m") as same, FakeServer(model="n") as other:
        run(files, [served(one, pools)])
        assert counts(run(files, [served(same, pools), served(one, pools)])) == (0, 0, 4, 0)
        with pytest.raises(InvalidRequest, match="another model"):
            run(files, [served(other, pools)])
        with pytest.raises(InvalidRequest, match="another model"):
            run(files, [], ChatModel(ScriptedEngine()))


def test_answers_that_break_their_schema(files: Files, pools: HttpPools) -> None:
    files.ask(*prompts(2))
    texts = iter(["no", "{}", "[1]"])
    chat = ChatOptions(answer_schema={"type": "array"}, sampling={"seed": 1})
    with FakeServer(answer=lambda _: next(texts, "[2]"), n_parallel=1) as fake:
        assert counts(run(files, [served(fake, pools)], chat=chat)) == (2, 0, 0, 0)
    assert sorted(files.answers.values()) == ["[1]", "[2]"]
    assert fake.bodies[0]["response_format"]["json_schema"]["schema"] == {"type": "array"}
    assert fake.bodies[0]["seed"] == 1
    assert len({body["seed"] for body in fake.bodies}) > 1


def test_a_limit_of_tokens(files: Files, pools: HttpPools) -> None:
    """A server's tokens are known afterwards only: what may be needed is reckoned from bytes."""
    files.ask(*prompts(20))
    with FakeServer(n_parallel=2) as fake:
        none = run(files, [served(fake, pools)], max_total_tokens=1000)
        assert (none.n_done, none.n_left) == (0, 20)
        some = run(files, [served(fake, pools)], max_total_tokens=310, chat=ChatOptions(max_tokens=8))
    assert 0 < some.n_done < 20
    assert some.n_total_tokens == 15 * some.n_done
    assert some.n_total_tokens <= 310


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://host:1/v1/", "http://host:1"),
        ("https://api.example.org/team/v1", "https://api.example.org/team"),
    ],
)
def test_addresses(text: str, url: str) -> None:
    assert ServerAddress.parse(text).url == url


@pytest.mark.parametrize("text", ["", "ftp://host", "http://", "http://host:port", "http://u:p@host", "http://h/?x=1"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest):
        ServerAddress.parse(text)


def test_nobody_there(pools: HttpPools) -> None:
    with FakeServer() as fake:
        address = ServerAddress.parse(fake.url)
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:\d+: no connection"):
        BatchServer(address, None, pools, 1.0).model(None)


def test_a_key_that_goes_unencrypted_is_warned_of() -> None:
    told: list[str] = []
    choice = ServerChoice((ServerAddress.parse("http://192.0.2.1:1"),), "secret")
    with pytest.raises(InvalidRequest):  # this proxy is none that we speak to: no packet leaves
        find_servers(choice, NetworkSettings(proxies={"all": "socks5://127.0.0.1:9"}), None, told.append)
    assert told == ["the key goes to http://192.0.2.1:1 unencrypted"]
    assert "secret" not in repr(choice)
