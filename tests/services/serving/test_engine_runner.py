"""Requests from many threads on one engine: their events, ends, errors, and that nothing is left behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

from qwenctl.core import Finished, FinishReason, GenerationEvent, GenerationRequest, SamplingParams, TextDelta
from qwenctl.errors import GenerationFailed, InvalidRequest, PromptTooLong
from qwenctl.services.embedder import Embeddings
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.engine_process import EngineProcess
from qwenctl.services.engine_surface import TakeEvents
from qwenctl.services.prefix_cache.options import PrefixCacheOptions
from qwenctl.services.serving.engine_runner import EngineRunner
from tests.scripted_engine import ScriptedEngine

LIMIT_S = 60.0


class Heard:
    """Collects what `on_events` is told."""

    def __init__(self) -> None:
        self.calls: list[Sequence[GenerationEvent]] = []
        self.first = threading.Event()
        self.end = threading.Event()

    def __call__(self, events: Sequence[GenerationEvent]) -> None:
        self.calls.append(events)
        self.first.set()
        if isinstance(events[-1], Finished):
            self.end.set()

    @property
    def text(self) -> str:
        return "".join(event.text for call in self.calls for event in call if isinstance(event, TextDelta))

    def finished(self) -> Finished:
        """Wait for the last event."""
        assert self.end.wait(LIMIT_S)
        (last,) = [event for call in self.calls for event in call if isinstance(event, Finished)]
        return last


def request(name: str, text: str = "hello", max_tokens: int | None = None) -> GenerationRequest:
    return GenerationRequest(name, tuple(map(ord, text)), max_tokens=max_tokens)


@pytest.fixture
def start() -> Iterator[Callable[..., EngineRunner]]:
    """Make runners that are closed at the end, whose threads are then gone."""
    before = set(threading.enumerate())
    runners: list[EngineRunner] = []

    def make(engine: ScriptedEngine) -> EngineRunner:
        runners.append(EngineRunner(engine, engine.n_parallel))
        return runners[-1]

    yield make
    for runner in runners:
        runner.close()
    assert set(threading.enumerate()) <= before


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What a thread that died would have shown."""
    errors: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: errors.append(args.exc_value))
    return errors


def test_each_request_hears_its_own_events_and_a_step_s_in_one_call(start: Callable[..., EngineRunner]) -> None:
    runner = start(ScriptedEngine([["a", "b"], ["c"]], n_parallel=2))
    one, two = Heard(), Heard()
    runner.submit(request("1"), one)
    runner.submit(request("2"), two)
    assert (one.finished().reason, two.finished().reason) == (FinishReason.STOP, FinishReason.STOP)
    assert (one.text, two.text) == ("ab", "c")
    assert [len(call) for call in one.calls] == [1, 1, 1]


def test_an_idle_runner_does_not_step(start: Callable[..., EngineRunner]) -> None:
    engine = ScriptedEngine([["a"], ["b"]])
    runner = start(engine)
    first = Heard()
    runner.submit(request("1"), first)
    first.finished()
    n_steps = runner.counters.n_steps
    time.sleep(0.05)
    assert runner.counters.n_steps == n_steps
    second = Heard()
    runner.submit(request("2"), second)
    assert second.finished().reason is FinishReason.STOP


def test_many_threads_submit_and_cancel_and_every_request_ends_once(start: Callable[..., EngineRunner]) -> None:
    runner = start(ScriptedEngine(answer=list, n_parallel=4))
    heard = [Heard() for _ in range(120)]

    def client(numbers: range) -> None:
        for number in numbers:
            runner.submit(request(str(number), f"text {number}"), heard[number])
            if number % 5 == 0:
                runner.cancel(str(number))

    threads = [threading.Thread(target=client, args=(range(first, 120, 6),)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, one in enumerate(heard):
        reason = one.finished().reason
        assert reason in ((FinishReason.STOP, FinishReason.CANCELLED) if number % 5 == 0 else (FinishReason.STOP,))
        if reason is FinishReason.STOP:
            assert one.text == f"text {number}"
    assert (runner.n_running, runner.n_waiting) == (0, 0)
    assert sum(runner.counters.n_ended.values()) == 120


def test_counters(start: Callable[..., EngineRunner]) -> None:
    gate: SimpleQueue[None] = SimpleQueue()

    class Gated(ScriptedEngine):
        def step(self, meanwhile: TakeEvents | None = None) -> list[GenerationEvent]:
            gate.get()
            return super().step(meanwhile)

    runner = start(Gated([["a", "b"], ["c"], ["d"]], n_parallel=1))
    heard = [Heard() for _ in range(3)]
    for number, one in enumerate(heard):
        runner.submit(request(str(number), "four"), one)
    assert (runner.n_running, runner.n_waiting) == (1, 2)
    for _ in range(50):
        gate.put(None)
    for one in heard:
        one.finished()
    counters = runner.counters
    assert (counters.n_prompt_tokens, counters.n_cached_tokens, counters.n_generated_tokens) == (12, 0, 4)
    assert counters.n_ended == {FinishReason.STOP: 3}
    assert counters.n_steps == 7
    assert 0 < counters.busy_s < LIMIT_S


def test_what_an_engine_refuses_is_raised_and_never_heard_of(start: Callable[..., EngineRunner]) -> None:
    runner = start(ScriptedEngine([["a"]], n_ctx=8))
    heard = Heard()
    with pytest.raises(PromptTooLong):
        runner.submit(request("1", "much too long"), heard)
    assert (runner.n_running, heard.calls) == (0, [])
    runner.submit(request("1", "short"), heard)
    assert heard.finished().reason is FinishReason.STOP


def test_a_name_is_taken_while_its_request_is_under_way(start: Callable[..., EngineRunner]) -> None:
    runner = start(ScriptedEngine(answer=lambda _: ["a"] * 1000, seconds_per_step=0.01))
    one, two = Heard(), Heard()
    runner.submit(request("same"), one)
    with pytest.raises(InvalidRequest, match="'same' under way"):
        runner.submit(request("same"), two)
    runner.cancel("same")
    assert one.finished().reason is FinishReason.CANCELLED
    assert two.calls == []
    runner.submit(request("same", max_tokens=1), two)
    assert two.finished().reason is FinishReason.LENGTH


def test_unknown_names_are_ignored_and_known_ones_passed_on(start: Callable[..., EngineRunner]) -> None:
    engine = ScriptedEngine(answer=lambda _: ["a"] * 1000, seconds_per_step=0.01)
    runner = start(engine)
    runner.cancel("nobody")
    runner.end_thinking("nobody")
    runner.submit(request("somebody"), Heard())
    runner.end_thinking("somebody")
    assert engine.ended_thinking == ["somebody"]


def test_a_callback_that_raises_costs_its_request_only(
    start: Callable[..., EngineRunner], reported: list[BaseException | None]
) -> None:
    runner = start(ScriptedEngine(answer=lambda _: ["a"] * 30, n_parallel=2, seconds_per_step=0.001))
    other = Heard()
    n_calls = 0

    def broken(_: Sequence[GenerationEvent]) -> None:
        nonlocal n_calls
        n_calls += 1
        raise ZeroDivisionError

    runner.submit(request("broken"), broken)
    runner.submit(request("other"), other)
    assert other.finished().usage.n_generated_tokens == 30
    assert n_calls == 1
    assert [type(error) for error in reported] == [ZeroDivisionError]
    assert runner.counters.n_ended == {FinishReason.CANCELLED: 1, FinishReason.STOP: 1}
    assert runner.failure is None


def test_an_engine_that_raises_ends_every_request_with_an_error(
    start: Callable[..., EngineRunner], reported: list[BaseException | None]
) -> None:
    submitted = threading.Event()

    class Broken(ScriptedEngine):
        def step(self, meanwhile: TakeEvents | None = None) -> list[GenerationEvent]:
            assert submitted.wait(LIMIT_S)
            raise MemoryError("no more")

    runner = start(Broken(n_parallel=1))
    heard = [Heard() for _ in range(3)]
    for number, one in enumerate(heard):
        runner.submit(request(str(number)), one)
    submitted.set()
    for one in heard:
        last = one.finished()
        assert (last.reason, last.error) == (FinishReason.ERROR, "the engine stopped: MemoryError: no more")
    assert runner.failure is not None
    assert [type(error) for error in reported] == [MemoryError]
    with pytest.raises(GenerationFailed, match="the engine stopped"):
        runner.submit(request("late"), Heard())


def test_closing_drains_what_there_is_time_for(start: Callable[..., EngineRunner]) -> None:
    engine = ScriptedEngine([["a"] * 20, ["b"] * 100_000], n_parallel=2, seconds_per_step=0.001)
    runner = start(engine)
    short, endless = Heard(), Heard()
    runner.submit(request("short"), short)
    runner.submit(request("endless"), endless)
    closing = threading.Thread(target=runner.close, args=(0.3,))
    closing.start()
    assert short.finished().reason is FinishReason.STOP
    with pytest.raises(GenerationFailed, match="no more requests"):
        runner.submit(request("late"), Heard())
    closing.join()
    assert engine.closed
    last = endless.finished()
    assert last.reason is FinishReason.CANCELLED
    assert last.usage.n_generated_tokens == len(endless.text)


def test_closing_waits_no_longer_than_there_are_requests() -> None:
    runner = EngineRunner(ScriptedEngine([["a"]]), 1)
    heard = Heard()
    runner.submit(request("1"), heard)
    runner.close(drain_s=1e6)
    assert heard.finished().reason is FinishReason.STOP
    runner.close(drain_s=1e6)


def test_the_last_event_does_not_wait_for_what_the_engine_put_off(start: Callable[..., EngineRunner]) -> None:
    heard = Heard()
    n_rests = 0

    class Tidy(ScriptedEngine):
        def rest(self) -> None:
            nonlocal n_rests
            n_rests += 1
            assert heard.end.wait(LIMIT_S)

    runner = start(Tidy([["a"]]))
    runner.submit(request("1"), heard)
    heard.finished()
    runner.stop()
    assert n_rests == 1


# --- real engines ----------------------------------------------------------------------------------------------------

GREEDY = SamplingParams(temperature=0)


def ask(engine: Engine | EngineProcess, name: str, max_tokens: int, grammar: str | None = None) -> GenerationRequest:
    tokens = engine.tokenize(f"<|im_start|>user\nTell me of {name}.<|im_end|>\n<|im_start|>assistant\n")
    return GenerationRequest(name, tokens, SamplingParams(temperature=0, grammar=grammar), max_tokens)


def test_a_real_engine_says_under_a_runner_what_it_says_without(demo_gguf: Path) -> None:
    names = ["cats", "the sea", "France", "numbers", "colours"]
    options = EngineOptions(n_ctx=512, n_parallel=3, n_threads=1)
    with Engine.open(demo_gguf, options) as engine:
        alone = {
            name: "".join(
                event.text for event in engine.generate(ask(engine, name, 12)) if isinstance(event, TextDelta)
            )
            for name in names
        }
        runner = EngineRunner(engine, 3)
        heard = {name: Heard() for name in names}
        for name, one in heard.items():
            runner.submit(ask(engine, name, 12), one)
        assert {name: (one.finished(), one.text)[1] for name, one in heard.items()} == alone
        endless = Heard()
        runner.submit(ask(engine, "for ever", 400, 'root ::= "word " root'), endless)
        assert endless.first.wait(LIMIT_S)
        runner.close()
        assert endless.finished().reason is FinishReason.CANCELLED


def test_closing_the_engine_under_a_runner_ends_it(demo_gguf: Path) -> None:
    for idle in (True, False):
        engine = Engine.open(demo_gguf, EngineOptions(n_ctx=512, n_parallel=2, n_threads=1))
        runner, heard = EngineRunner(engine, 2), Heard()
        if not idle:
            runner.submit(ask(engine, "for ever", 400, 'root ::= "word " root'), heard)
            assert heard.first.wait(LIMIT_S)
        engine.close()
        if not idle:
            assert heard.finished().reason is FinishReason.CANCELLED
        runner.close()


def test_prefixes_are_written_under_a_runner_while_nobody_asks(smollm2_gguf: Path, tmp_path: Path) -> None:
    options = EngineOptions(n_ctx=1024, n_threads=2, prefix_cache=PrefixCacheOptions(tmp_path))
    with Engine.open(smollm2_gguf, options) as engine:
        runner, heard = EngineRunner(engine, 1), Heard()
        long = ask(engine, "the sea, " * 200, 1)
        runner.submit(long, heard)
        heard.finished()
        deadline_s = time.monotonic() + LIMIT_S
        while not list(tmp_path.rglob("*.kv")) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert list(tmp_path.rglob("*.kv"))
        runner.close()


def test_a_first_token_does_not_wait_for_the_second(smollm2_gguf: Path) -> None:
    with Engine.open(smollm2_gguf, EngineOptions(n_ctx=256, n_parallel=2, n_threads=1)) as engine:
        engine.submit(ask(engine, "one", 2))
        early: list[GenerationEvent] = []
        late = engine.step(early.extend)
    first, second = ([event for event in events if isinstance(event, TextDelta)] for events in (early, late))
    assert [event.n_tokens for event in first] == [1]
    assert [event.n_tokens for event in second] == [2]
    assert isinstance(late[-1], Finished)


def test_an_engine_s_process_that_dies_ends_requests_and_is_noticed_when_idle(demo_gguf: Path) -> None:
    options = EngineOptions(n_ctx=512, n_parallel=2, n_threads=1)
    for idle in (False, True):
        engine = EngineProcess.open(demo_gguf, options)
        runner = EngineRunner(engine, 2)
        heard = Heard()
        if not idle:
            runner.submit(ask(engine, "for ever", 400, 'root ::= "word " root'), heard)
            assert heard.first.wait(LIMIT_S)
        assert runner.failure is None
        os.kill(engine._child.pid, signal.SIGKILL)
        deadline = time.monotonic() + LIMIT_S
        while runner.failure is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert runner.failure is not None
        if not idle:
            last = heard.finished()
            assert last.reason is FinishReason.ERROR
            assert "SIGKILL" in (last.error or "")
        with pytest.raises(GenerationFailed):
            runner.submit(ask(engine, "more", 4), Heard())
        runner.close()


# --- embeddings ------------------------------------------------------------------------------------------------------


def test_vectors_are_computed_between_steps_in_portions(start: Callable[..., EngineRunner]) -> None:
    sizes: list[int] = []

    class Counting(ScriptedEngine):
        def embed(self, token_lists: Sequence[Sequence[int]]) -> Embeddings:
            sizes.append(sum(map(len, token_lists)))
            return super().embed(token_lists)

    engine = Counting(answer=lambda _: ["a"] * 50, seconds_per_step=0.001)
    runner = start(engine)
    heard = Heard()
    runner.submit(request("1"), heard)
    lists = [[number + 1] * 100 for number in range(12)] + [[1] * 1000]
    future = runner.embed(lists)
    np.testing.assert_array_equal(future.result(LIMIT_S), engine.embed(lists))
    assert sizes[:-1] == [500, 500, 200, 1000]
    assert heard.finished().usage.n_generated_tokens == 50
    assert runner.embed([]).result(LIMIT_S).shape[0] == 0


def test_what_a_step_brought_does_not_wait_for_vectors(start: Callable[..., EngineRunner]) -> None:
    heard, asked, stepped = Heard(), threading.Event(), threading.Event()

    class Watched(ScriptedEngine):
        def step(self, meanwhile: TakeEvents | None = None) -> list[GenerationEvent]:
            assert asked.wait(LIMIT_S)
            events = super().step(meanwhile)
            stepped.set()
            return events

        def embed(self, token_lists: Sequence[Sequence[int]]) -> Embeddings:
            assert not stepped.is_set() or heard.first.wait(LIMIT_S)
            return super().embed(token_lists)

    runner = start(Watched([["a", "b"]]))
    runner.submit(request("1"), heard)
    futures = [runner.embed([[number] * 500] * 2) for number in range(1, 3)]
    asked.set()
    for future in futures:
        future.result(LIMIT_S)
    assert heard.finished().reason is FinishReason.STOP


def test_vectors_that_cannot_be_had_are_an_error_of_their_own(start: Callable[..., EngineRunner]) -> None:
    runner = start(ScriptedEngine([["a"]]))
    with pytest.raises(InvalidRequest):
        runner.embed([[1], []]).result(LIMIT_S)
    heard = Heard()
    runner.submit(request("1"), heard)
    assert heard.finished().reason is FinishReason.STOP
    runner.close()
    with pytest.raises(GenerationFailed, match="closed"):
        runner.embed([[1]])


def test_an_engine_that_dies_over_vectors_fails_them_all(
    start: Callable[..., EngineRunner], reported: list[BaseException | None]
) -> None:
    class Broken(ScriptedEngine):
        def embed(self, token_lists: Sequence[Sequence[int]]) -> Embeddings:
            raise MemoryError

    runner = start(Broken())
    futures = [runner.embed([[1]]) for _ in range(1)]
    with pytest.raises(MemoryError):
        futures[0].result(LIMIT_S)
    deadline = time.monotonic() + LIMIT_S
    while runner.failure is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(GenerationFailed, match="MemoryError"):
        runner.embed([[1]])
    assert len(reported) == 1
