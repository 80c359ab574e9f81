"""An engine in a process of its own does what the one in this process does, and its death is an error like others."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from subprocess import PIPE

import pytest

from qwenctl.core import Finished, FinishReason, GenerationEvent, GenerationRequest, SamplingParams, TextDelta
from qwenctl.errors import GenerationFailed, InvalidRequest, ModelLoadFailed, QwenctlError
from qwenctl.moe.offload_options import OffloadOptions
from qwenctl.services import engine_process
from qwenctl.services.batch import BatchOptions, run_batch
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.engine_child import EngineChild
from qwenctl.services.engine_opening import open_engine
from qwenctl.services.engine_process import EngineProcess
from qwenctl.services.generation import ChatModel, ChatOptions
from tests.conftest import ROOT
from tests.services.ctrl_c import ctrl_c_during_a_call

# One offloaded model a process: those that stay open over the module are stock.
OPTIONS = EngineOptions(n_ctx=8192, n_parallel=4, n_threads=1, offload=OffloadOptions("off"))
GREEDY = SamplingParams(temperature=0)
ENDLESS = SamplingParams(temperature=0, grammar='root ::= "word " root')
SLOW_PROMPT = tuple(300 + 7 * n % 1000 for n in range(7000))  # takes seconds to compute
QUESTIONS = ["What is the capital of France?", "Hello!", "What is 2 + 3?", "Name a colour."]


@pytest.fixture(scope="module")
def here(demo_gguf: Path) -> Iterator[Engine]:
    with Engine.open(demo_gguf, OPTIONS) as engine:
        yield engine


@pytest.fixture(scope="module")
def remote(demo_gguf: Path) -> Iterator[EngineProcess]:
    with EngineProcess.open(demo_gguf, OPTIONS) as engine:
        yield engine


@pytest.fixture
def mortal(demo_gguf: Path) -> Iterator[EngineProcess]:
    """One that may be killed."""
    with EngineProcess.open(demo_gguf, OPTIONS) as engine:
        yield engine


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def ask(engine: Engine | EngineProcess, text: str, n: int = 24, sampling: SamplingParams = GREEDY) -> GenerationRequest:
    tokens = engine.tokenize(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")
    return GenerationRequest(text, tokens, sampling, n)


def run(engine: Engine | EngineProcess, requests: Sequence[GenerationRequest]) -> list[GenerationEvent]:
    for one in requests:
        engine.submit(one)
    events: list[GenerationEvent] = []
    while engine.has_work:
        events += engine.step()
    return events


def seen(events: Sequence[GenerationEvent]) -> list[object]:
    """Events without the seconds they took."""
    return [
        event if isinstance(event, TextDelta) else (event.request_id, event.reason, event.usage, event.error)
        for event in events
    ]


def text_of(events: Sequence[GenerationEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def endings(events: Sequence[GenerationEvent]) -> dict[str, Finished]:
    return {event.request_id: event for event in events if isinstance(event, Finished)}


# --- the same as in this process -------------------------------------------------------------------------------------


def test_it_says_the_same_of_the_model_and_of_text(here: Engine, remote: EngineProcess) -> None:
    assert remote.info == here.info
    assert remote.options == here.options
    assert (remote.placement, remote.warnings) == (here.placement, here.warnings)
    assert not remote.has_work
    assert remote.step() == []
    for text in ("", "plain", "ünï 👋 \0 \u2028", "half \ud800", "<|im_start|>user", "long " * 30_000):
        for special in (False, True):
            tokens = here.tokenize(text, parse_special=special, add_special=not special)
            assert remote.tokenize(text, parse_special=special, add_special=not special) == tokens
            assert remote.detokenize(tokens) == here.detokenize(tokens)


def test_it_generates_the_same(here: Engine, remote: EngineProcess) -> None:
    random = SamplingParams(temperature=1.0, seed=7, presence_penalty=0.5)
    for requests in (
        [ask(here, QUESTIONS[0])],
        [ask(here, question) for question in QUESTIONS],
        [ask(here, QUESTIONS[1], 12, random), ask(here, QUESTIONS[2], 5, ENDLESS)],
        [GenerationRequest("stop", ask(here, QUESTIONS[0]).prompt_tokens, GREEDY, 40, ("is Par", "Paris"))],
    ):
        assert seen(run(remote, requests)) == seen(run(here, requests))
        assert not remote.has_work
    remote.check_integrity()


def test_generate_streams_and_can_be_closed_early(remote: EngineProcess) -> None:
    events = list(remote.generate(ask(remote, QUESTIONS[0], 60)))
    assert "Paris" in text_of(events)
    assert isinstance(events[-1], Finished)
    stream = remote.generate(ask(remote, "Tell me a story.", 400, ENDLESS))
    assert isinstance(next(stream), TextDelta)
    with pytest.raises(InvalidRequest, match="at work"):
        next(remote.generate(ask(remote, "Hello")))
    stream.close()  # type: ignore[attr-defined]
    assert not remote.has_work
    assert remote.step() == []
    assert len(list(remote.generate(ask(remote, "Tell me a story.", 3, ENDLESS)))) == 4
    remote.check_integrity()


def test_it_refuses_the_same_with_the_same_error(here: Engine, remote: EngineProcess) -> None:
    bad = [
        GenerationRequest("long", (5,) * 9000, GREEDY),
        GenerationRequest("empty", (), GREEDY),
        GenerationRequest("token", (1 << 30,), GREEDY),
        GenerationRequest("negative", (-1,), GREEDY),
        GenerationRequest("none", (5,), GREEDY, 0),
        GenerationRequest("grammar", (5,), SamplingParams(grammar="root ::= (")),
    ]
    for one in bad:
        with pytest.raises(QwenctlError) as expected:
            here.submit(one)
        with pytest.raises(QwenctlError) as arrived:
            remote.submit(one)
        assert (type(arrived.value), vars(arrived.value)) == (type(expected.value), vars(expected.value))
        assert not remote.has_work
    remote.submit(ask(remote, "twice", 1))
    with pytest.raises(InvalidRequest, match="'twice' under way"):
        remote.submit(ask(remote, "twice", 1))
    assert len(run(remote, ())) >= 1


def test_what_the_expert_scheduler_counted_arrives(demo_gguf: Path) -> None:
    options = EngineOptions(n_ctx=256, n_threads=1, offload=OffloadOptions("on", layout="plain", n_slots=4))
    with Engine.open(demo_gguf, options) as here, EngineProcess.open(demo_gguf, options) as remote:
        assert remote.placement == here.placement is not None
        request = ask(here, QUESTIONS[0], 4)
        assert seen(run(remote, [request])) == seen(run(here, [request]))
        expected, arrived = here.offload_stats(), remote.offload_stats()
    assert expected
    assert arrived
    assert arrived.keys() == expected.keys()
    assert arrived["placement"].keys() == expected["placement"].keys()
    same = ("operation", "token_steps", "token_misses", "evicted")
    assert {name: arrived[name] for name in same} == {name: expected[name] for name in same}


# --- cancelling and interrupting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["thread", "signal handler"])
def test_cancelling_breaks_off_what_is_being_computed(remote: EngineProcess, how: str) -> None:
    """A prompt that takes seconds: were it computed to its end, a token would have been generated."""
    request = GenerationRequest("slow", SLOW_PROMPT, GREEDY, 5)

    def cancel(*_: object) -> None:
        remote.cancel("nobody")
        remote.cancel("slow")

    former = signal.signal(signal.SIGUSR1, cancel)
    act = cancel if how == "thread" else (lambda: os.kill(os.getpid(), signal.SIGUSR1))
    timer = threading.Timer(0.1, act)
    try:
        remote.submit(request)
        timer.start()
        (ending,) = run(remote, ())
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, former)
    assert isinstance(ending, Finished)
    assert (ending.reason, ending.usage.n_generated_tokens) == (FinishReason.CANCELLED, 0)
    assert "Paris" in text_of(run(remote, [ask(remote, QUESTIONS[0], 60)]))


def test_an_interrupted_step_loses_nothing(remote: EngineProcess) -> None:
    remote.submit(GenerationRequest("slow", SLOW_PROMPT[1:], GREEDY, 5))
    with ctrl_c_during_a_call(remote), pytest.raises(KeyboardInterrupt):
        remote.step()
    remote.cancel("slow")
    (ending,) = run(remote, ())
    assert endings([ending])["slow"].reason is FinishReason.CANCELLED
    request = ask(remote, QUESTIONS[1], 4)
    assert endings(run(remote, [request]))[QUESTIONS[1]].usage.n_generated_tokens == 4
    remote.check_integrity()


@pytest.mark.parametrize("end", ["stream", "close"])
def test_a_process_that_hangs_is_killed(demo_gguf: Path, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it does when a remote device is stopped: ggml waits for its answer for ever."""
    monkeypatch.setattr(engine_process, "_CLOSE_LIMIT_S", 0.5)
    change = (
        "import time; steps, step = [], Engine.step\n"
        "Engine.step = lambda self: steps.append(1) or (step(self) if len(steps) < 2 else time.sleep(1000))"
    )
    with EngineProcess.open(demo_gguf, OPTIONS, changed_child(change)) as engine:
        stream = engine.generate(ask(engine, "Tell me a story.", 400, ENDLESS))
        assert isinstance(next(stream), TextDelta)
        with ctrl_c_during_a_call(engine), pytest.raises(KeyboardInterrupt):
            list(stream) if end == "stream" else engine.step()
        if end == "stream":
            assert not engine.has_work
            with pytest.raises(GenerationFailed, match=r"did not react for 0\.5 s and was ended"):
                engine.tokenize("x")
    assert engine._child.death
    assert engine._child.death.status == -signal.SIGKILL
    assert [event.reason for event in endings(engine.step()).values()] == [FinishReason.CANCELLED] * (end == "close")


def test_closing_ends_a_step_in_another_thread_and_keeps_the_last_events(demo_gguf: Path) -> None:
    engine = EngineProcess.open(demo_gguf, OPTIONS)
    engine.submit(GenerationRequest("slow", SLOW_PROMPT, GREEDY, 5))
    engine.submit(GenerationRequest("waiting", (5, 6), GREEDY, 5))
    events: list[GenerationEvent] = []
    stepping = threading.Thread(target=lambda: events.extend(engine.step()))
    stepping.start()
    engine.close()
    stepping.join()
    events += engine.step()
    assert {name: one.reason for name, one in endings(events).items()} == {
        "slow": FinishReason.CANCELLED,
        "waiting": FinishReason.CANCELLED,
    }
    assert not engine.has_work
    assert engine.step() == []
    engine.cancel("slow")
    engine.close()
    assert not is_alive(engine._child.pid)
    for call in (
        lambda: engine.tokenize("x"),
        lambda: engine.submit(GenerationRequest("a", (5,))),
        engine.check_integrity,
    ):
        with pytest.raises(GenerationFailed, match="closed"):
            call()


# --- death -----------------------------------------------------------------------------------------------------------


def test_a_killed_process_ends_its_requests_and_raises_from_then_on(mortal: EngineProcess) -> None:
    for name in ("one", "two"):
        mortal.submit(ask(mortal, name, 400, ENDLESS))
    events = mortal.step() + mortal.step()
    os.kill(mortal._child.pid, signal.SIGKILL)
    while mortal.has_work:
        events += mortal.step()
    ended = endings(events)
    assert {name: one.reason for name, one in ended.items()} == dict.fromkeys(("one", "two"), FinishReason.ERROR)
    assert ended["one"].error == "the engine's process was killed (SIGKILL)"
    assert ended["one"].usage.n_generated_tokens == sum(
        isinstance(event, TextDelta) and event.request_id == "one" for event in events
    )
    for call in (
        lambda: mortal.tokenize("x"),
        lambda: mortal.submit(GenerationRequest("a", (5,))),
        lambda: next(mortal.generate(GenerationRequest("a", (5,)))),
        mortal.check_integrity,
    ):
        with pytest.raises(GenerationFailed, match="SIGKILL") as failed:
            call()
        assert failed.value.hint
    assert not mortal.has_work
    mortal.cancel("one")


def test_generate_raises_when_the_process_is_killed(mortal: EngineProcess) -> None:
    stream = mortal.generate(ask(mortal, "one", 400, ENDLESS))
    next(stream)
    os.kill(mortal._child.pid, signal.SIGABRT)
    with pytest.raises(GenerationFailed, match=r"crashed in the engine's process \(SIGABRT\)"):
        list(stream)
    assert not mortal.has_work


def test_a_batch_keeps_what_was_answered_and_goes_on_later(
    mortal: EngineProcess, demo_gguf: Path, tmp_path: Path
) -> None:
    source, answers, n_lines = tmp_path / "in.jsonl", tmp_path / "out.jsonl", 24
    source.write_text("".join(f'{{"custom_id": "{n}", "prompt": "Count to {n}"}}\n' for n in range(n_lines)))
    options = BatchOptions(ChatOptions(thinking=False, sampling={"temperature": 0.0}, max_tokens=30), parallel=2)

    def kill_after_two(progress: object) -> None:
        if answers.read_text().count("\n") >= 2:
            mortal._child.kill()

    with pytest.raises(GenerationFailed, match="SIGKILL"):
        run_batch(ChatModel(mortal), source, answers, options, kill_after_two, clock=lambda: time.monotonic() * 1000)
    lines = answers.read_text().splitlines()
    assert 2 <= len(lines) < n_lines
    assert all("SIGKILL" in line for line in lines if '"error": null' not in line)
    with EngineProcess.open(demo_gguf, OPTIONS) as engine:
        again = BatchOptions(options.chat, parallel=2, retry_errors=True)
        summary = run_batch(ChatModel(engine), source, answers, again)
    assert (summary.n_done + summary.n_skipped, summary.n_errors) == (n_lines, 0)
    assert summary.n_skipped >= 2
    assert "SIGKILL" not in answers.read_text()


def test_the_process_ends_when_its_parent_is_killed(demo_gguf: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from qwenctl.services.engine_process import EngineProcess\n"
        "from qwenctl.core import GenerationRequest\n"
        f"engine = EngineProcess.open(Path({str(demo_gguf)!r}))\n"
        "engine.submit(GenerationRequest('a', tuple(range(300, 1300)), max_tokens=200))\n"
        "print(engine._child.pid, flush=True)\n"
        "while True: engine.step()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
        parent.wait()
    assert eventually(lambda: not is_alive(child))


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# --- the process itself ----------------------------------------------------------------------------------------------


def changed_child(change: str) -> EngineChild:
    """The usual process after the statement `change`."""
    program = (
        f"import os, sys; sys.path.append({str(ROOT)!r})\n"
        f"from qwenctl.services.engine import Engine\nfrom qwenctl.services.engine_worker import main\n{change}\nmain()"
    )
    return EngineChild([sys.executable, "-P", "-c", program])


def test_noise_and_failures_over_there(demo_gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What native code prints does not get among the answers; books that do not agree are an assertion here too."""
    change = (
        "opened = Engine.open\n"
        "Engine.open = lambda *a: (os.write(1, b'noise on stdout\\n'), opened(*a))[1]\n"
        "Engine.check_integrity = lambda self: (_ for _ in ()).throw(AssertionError('3 cells too many'))\n"
        "Engine.close = lambda self: 1 / 0"
    )
    engine = EngineProcess.open(demo_gguf, OPTIONS, changed_child(change))
    with pytest.raises(AssertionError, match="3 cells too many"):
        engine.check_integrity()
    assert engine.tokenize("still there")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        engine.close()
    assert not is_alive(engine._child.pid)
    assert capfd.readouterr() == ("", "")


def test_a_crash_while_loading_names_its_cause(demo_gguf: Path, capfd: pytest.CaptureFixture[str]) -> None:
    crash = "Engine.open = lambda *a: (os.write(2, b'/src/ggml.c:12: GGML_ASSERT(x) failed\\n'), os.abort())"
    with pytest.raises(
        ModelLoadFailed, match=r"could not be loaded: .*SIGABRT.*: ggml\.c:12: GGML_ASSERT\(x\) failed$"
    ):
        EngineProcess.open(demo_gguf, OPTIONS, changed_child(crash))
    with pytest.raises(ModelLoadFailed, match="no-such-file"):
        EngineProcess.open(demo_gguf.with_name("no-such-file.gguf"), OPTIONS, changed_child("pass"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (framed(b"[]"), "no object"),
        (b"\xff\xff\xff\xff", "4,294,967,295 bytes"),
        (framed(b'{"id": 1'), "no JSON"),
        (framed(b'{"id": 9}'), "an answer to nothing"),
        (framed(b'{"id": true}'), "int is True"),
        (framed(b'{"id": 1, "value": {}}'), "Opened does not have its fields"),
        (framed(b'{"id": 1, "error": "bad"}'), "an error that is no object"),
        (framed(b"{}")[:5], "cut off"),
    ],
)
def test_nonsense_from_the_process_ends_it(demo_gguf: Path, answer: bytes, words: str) -> None:
    fake = f"import os; os.read(0, 100); os.write(1, {answer!r}); os.close(1)"
    child = EngineChild([sys.executable, "-S", "-c", fake])
    with pytest.raises(ModelLoadFailed, match=f"the engine's process was ended: it sent .*{words}"):
        EngineProcess.open(demo_gguf, OPTIONS, child)
    assert not is_alive(child.pid)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (framed(b'{"id": 1, "call": "system"}'), b"no call 'system'"),
        (framed(b'{"id": 1, "call": "step"}'), b"before a model was opened"),
        (framed(b"{}")[:5], b"cut off"),
    ],
)
def test_nonsense_to_the_process_ends_it(message: bytes, words: bytes) -> None:
    program = f"import sys; sys.path.append({str(ROOT)!r})\nfrom qwenctl.services.engine_worker import main; main()"
    with subprocess.Popen([sys.executable, "-P", "-c", program], stdin=PIPE, stdout=PIPE, stderr=PIPE) as worker:
        assert worker.stdin is not None
        worker.stdin.write(message)
        worker.stdin.flush()
        if words == b"cut off":
            worker.stdin.close()
        assert worker.wait(timeout=60) == 70
        assert worker.stdout is not None
        assert worker.stdout.read() == b""
        assert worker.stderr is not None
        assert words in worker.stderr.read()


def test_remote_devices_decide_where_the_engine_runs(demo_gguf: Path) -> None:
    with open_engine(demo_gguf, OPTIONS) as engine:
        assert isinstance(engine, Engine)
