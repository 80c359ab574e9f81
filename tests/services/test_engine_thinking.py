"""Think blocks, grammars after them, logprobs, biases and progress: the engine on the demo, which thinks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qwenctl.core import (
    Finished,
    FinishReason,
    GenerationEvent,
    GenerationRequest,
    PromptProgress,
    SamplingParams,
    TextDelta,
    ThinkBlock,
    TokenBias,
    TokenLogprob,
)
from qwenctl.errors import InvalidRequest
from qwenctl.services import grammar_sampler, sampler_chain
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.engine_process import EngineProcess
from qwenctl.services.sampler_chain import SamplerChain
from qwenctl.services.thinking_mode import EARLY_STOP, ENDING
from tests.conftest import ROOT

GREEDY = SamplingParams(temperature=0)
OPTIONS = EngineOptions(n_ctx=512, n_parallel=4, n_threads=1, n_ubatch=64, n_batch=64)
QUESTIONS = ("What is the capital of France?", "What colour is the sky?", "What is 2 + 3?", "Hello!")
INSIDE = ThinkBlock(True, ending=ENDING)


@pytest.fixture(scope="module")
def engine(demo_gguf: Path) -> Iterator[Engine]:
    with Engine.open(demo_gguf, OPTIONS) as opened:
        yield opened
        opened.check_integrity()


def asked(
    engine: Engine | EngineProcess,
    question: str = QUESTIONS[0],
    think: ThinkBlock | None = INSIDE,
    sampling: SamplingParams = GREEDY,
    n: int | None = 120,
    **more: object,
) -> GenerationRequest:
    opening = "<think>\n" if think and think.starts_inside else ""
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{opening}"
    request = GenerationRequest(question, engine.tokenize(text), sampling, n, think=think)
    return replace(request, **more)  # type: ignore[arg-type]


def run(engine: Engine | EngineProcess, *requests: GenerationRequest) -> list[GenerationEvent]:
    for one in requests:
        engine.submit(one)
    events: list[GenerationEvent] = []
    while engine.has_work:
        events += engine.step()
    return events


def text_of(events: Sequence[GenerationEvent], name: str | None = None) -> str:
    return "".join(one.text for one in events if isinstance(one, TextDelta) and name in (None, one.request_id))


def end_of(events: Sequence[GenerationEvent], name: str | None = None) -> Finished:
    return next(one for one in events if isinstance(one, Finished) and name in (None, one.request_id))


def endless(engine: Engine | EngineProcess, n: int | None) -> GenerationRequest:
    """A request whose thinking only the engine ends."""
    ends = engine.tokenize("</think><|im_end|><|endoftext|>")
    never = tuple(TokenBias(token, -100) for token in ends)
    return asked(engine, n=n, logit_bias=never, think=replace(INSIDE, loop_guard=False))


def n_thought(engine: Engine, text: str) -> int:
    """Tokens of the thinking, without the sentence that ended it."""
    return len(engine.tokenize(text.partition("</think>")[0].removesuffix(f"{EARLY_STOP}\n")))


# --- the think block -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, 1, 5, 16, 64])
def test_a_budget_is_kept_and_an_answer_follows(engine: Engine, budget: int) -> None:
    requests = [asked(engine, question, replace(INSIDE, budget=budget)) for question in QUESTIONS]
    events = run(engine, *requests)
    for question in QUESTIONS:
        thought, tag, answer = text_of(events, question).partition("</think>\n\n")
        assert tag
        assert answer.strip()
        assert n_thought(engine, thought) <= budget
        early = thought.endswith(f"{EARLY_STOP}\n")
        assert end_of(events, question).thinking_end == ("budget" if early else "model")
        assert early or budget > 5
    engine.check_integrity()


def test_what_was_forced_is_what_the_model_goes_on_from(engine: Engine) -> None:
    """The same tokens in the prompt give the same answer."""
    events = run(engine, asked(engine, think=replace(INSIDE, budget=4)))
    thought, tag, answer = text_of(events).partition(ENDING)
    assert tag
    whole = engine.tokenize(
        f"<|im_start|>user\n{QUESTIONS[0]}<|im_end|>\n<|im_start|>assistant\n<think>\n{thought}{ENDING}"
    )
    engine._cache.forget_all()
    assert text_of(run(engine, GenerationRequest("again", whole, GREEDY, 60)))[:40] == answer[:40]
    assert end_of(events).usage.n_generated_tokens > 4 + len(engine.tokenize(ENDING))


@pytest.mark.parametrize("block", [INSIDE, ThinkBlock(False), replace(INSIDE, budget=10_000)])
def test_without_need_nothing_changes(engine: Engine, block: ThinkBlock) -> None:
    watched, free = asked(engine, think=block), replace(asked(engine, think=block), think=None)
    events = run(engine, watched)
    assert text_of(events) == text_of(run(engine, free))
    assert end_of(events).thinking_end == "model"


def test_thinking_leaves_room_for_the_answer(engine: Engine) -> None:
    """Nobody gave a budget: the limit of the reply and the end of the context set one."""
    for n in (80, None):
        events = run(engine, endless(engine, n))
        answer = text_of(events).partition("</think>\n\n")[2]
        assert answer.strip()
        assert end_of(events).thinking_end == "budget"


def test_a_reply_too_short_for_thinking_and_answer_is_cut_where_it_is(engine: Engine) -> None:
    events = run(engine, asked(engine, n=6))
    assert end_of(events).usage.n_generated_tokens == 6
    assert (end_of(events).reason, end_of(events).thinking_end) == (FinishReason.LENGTH, None)
    short = run(engine, asked(engine, n=10, think=replace(INSIDE, budget=0)))
    assert end_of(short).usage.n_generated_tokens == 10
    assert text_of(short).strip() in ENDING


def test_the_end_of_the_turn_within_the_block_ends_the_block_only(engine: Engine) -> None:
    now = tuple(TokenBias(token, 100.0) for token in engine.tokenize("<|im_end|>"))
    events = run(engine, asked(engine, logit_bias=now))
    assert text_of(events) == "\n</think>\n\n"
    assert (end_of(events).reason, end_of(events).thinking_end) == (FinishReason.STOP, "model")


@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(seed=1)])
def test_cut_short_the_model_says_something_nevertheless(engine: Engine, sampling: SamplingParams) -> None:
    now = tuple(TokenBias(token, 30.0) for token in engine.tokenize("<|im_end|><|endoftext|>"))
    for block in (INSIDE, replace(INSIDE, budget=0)):
        events = run(engine, asked(engine, think=block, sampling=sampling, logit_bias=now))
        answer = text_of(events).partition("</think>")[2]
        assert bool(answer.strip()) == (block.budget == 0)  # who ends the block by itself may say nothing


def test_a_loop_is_ended(engine: Engine) -> None:
    token = engine.tokenize(" so")[0]
    events = run(engine, asked(engine, n=400, logit_bias=(TokenBias(token, 50.0),)))
    assert end_of(events).thinking_end == "loop"
    assert 200 <= text_of(events).partition(EARLY_STOP)[0].count(" so") < 280
    unguarded = asked(engine, n=400, logit_bias=(TokenBias(token, 50.0),), think=replace(INSIDE, loop_guard=False))
    assert end_of(run(engine, unguarded)).thinking_end == "budget"


def test_a_character_under_way_is_finished_first(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    emoji = engine.tokenize("🜁")
    assert len(emoji) == 4  # a token a byte
    scripted = iter((*emoji, *emoji))
    monkeypatch.setattr(SamplerChain, "sample_freely", lambda *_: next(scripted))
    engine.submit(asked(engine, think=replace(INSIDE, budget=2)))
    events = [event for _ in range(7) for event in engine.step()]
    assert text_of(events) == f"🜁{ENDING}"
    monkeypatch.undo()
    while engine.has_work:
        engine.step()


def test_stop_strings_do_not_act_within_the_thinking(engine: Engine) -> None:
    request = asked(engine, stop=("capital", "\n\n"))
    events = run(engine, request)
    assert "capital" in text_of(events).partition("</think>")[0]
    assert text_of(events).endswith("</think>\n\nThe ")
    assert end_of(events).stop_text == "capital"


# --- answer now ------------------------------------------------------------------------------------------------------


def test_answer_now_between_steps_and_before_the_first(engine: Engine) -> None:
    first, second = (asked(engine, question) for question in QUESTIONS[:2])
    engine.submit(first)
    engine.submit(second)
    engine.end_thinking(second.request_id)
    events = engine.step() + engine.step() + engine.step()
    engine.end_thinking(first.request_id)
    engine.end_thinking("nobody")
    while engine.has_work:
        events += engine.step()
    assert [end_of(events, one.request_id).thinking_end for one in (first, second)] == ["asked", "asked"]
    assert text_of(events, second.request_id).startswith(ENDING)
    assert 0 < n_thought(engine, text_of(events, first.request_id)) < 5


def test_answer_now_has_no_effect_on_an_answer_or_on_the_next_of_that_name(engine: Engine) -> None:
    plain = text_of(run(engine, asked(engine)))
    engine.end_thinking(QUESTIONS[0])
    assert text_of(run(engine, asked(engine))) == plain  # it was meant for a request that is over
    engine.submit(asked(engine))
    events: list[GenerationEvent] = []
    while engine.has_work:
        events += engine.step()
        if "Paris" in text_of(events).partition("</think>")[2]:
            engine.end_thinking(QUESTIONS[0])
    assert text_of(events) == plain


def test_answer_now_from_another_thread_through_the_engines_process(demo_gguf: Path, engine: Engine) -> None:
    with EngineProcess.open(demo_gguf, OPTIONS) as remote:
        request = endless(remote, 400)
        remote.submit(request)
        events = remote.step() + remote.step()
        asking = threading.Thread(target=remote.end_thinking, args=[request.request_id])
        asking.start()
        asking.join()
        while remote.has_work:
            events += remote.step()
        assert end_of(events).thinking_end == "asked"
        assert n_thought(engine, text_of(events)) < 10
        remote.end_thinking(request.request_id)  # over: ignored


# --- grammars after the block ----------------------------------------------------------------------------------------

ANSWER = r'root ::= "{\"city\": \"" [A-Za-z ]{1,20} "\"}"'


@pytest.mark.parametrize("starts_inside", [True, False])
@pytest.mark.parametrize("sampling", [GREEDY, SamplingParams(seed=5, presence_penalty=1.0)])
def test_the_thinking_is_free_and_the_answer_is_held(
    engine: Engine, starts_inside: bool, sampling: SamplingParams
) -> None:
    block = ThinkBlock(starts_inside, ending=ENDING)
    free = text_of(run(engine, asked(engine, think=block, sampling=sampling))).partition("</think>")[0]
    events = run(engine, asked(engine, think=block, sampling=replace(sampling, grammar=ANSWER)))
    thought, tag, answer = text_of(events).partition("</think>")
    assert (thought, tag) == (free, "</think>")
    assert answer.startswith("\n\n{")
    city = answer.strip().removeprefix('{"city": "').removesuffix('"}')
    assert city.replace(" ", "").isalpha()
    assert (end_of(events).reason, end_of(events).thinking_end) == (FinishReason.STOP, "model")


@pytest.mark.parametrize("budget", [0, 3])
def test_a_budget_and_a_grammar(engine: Engine, budget: int) -> None:
    block = replace(INSIDE, budget=budget)
    events = run(engine, asked(engine, think=block, sampling=replace(GREEDY, grammar=ANSWER)))
    assert text_of(events).partition(ENDING)[2].startswith('{"city": "')
    assert (end_of(events).reason, end_of(events).thinking_end) == (FinishReason.STOP, "budget")


def test_the_end_of_the_turn_within_the_block_does_not_escape_the_grammar(engine: Engine) -> None:
    now = tuple(TokenBias(token, 20.0) for token in engine.tokenize("<|im_end|>"))
    events = run(engine, asked(engine, logit_bias=now, sampling=replace(GREEDY, grammar=ANSWER)))
    assert text_of(events).startswith('\n</think>\n\n{"city": "')


def test_where_no_block_opens_the_grammar_holds_from_the_first_token(engine: Engine) -> None:
    no = tuple(TokenBias(token, -100) for token in engine.tokenize("<think>"))
    request = asked(engine, think=ThinkBlock(False), sampling=replace(GREEDY, grammar=ANSWER), logit_bias=no)
    events = run(engine, request)
    assert text_of(events).startswith('{"city": "')
    assert end_of(events).thinking_end is None


def test_no_block_no_exemption(engine: Engine) -> None:
    events = run(engine, asked(engine, think=None, sampling=replace(GREEDY, grammar=ANSWER)))
    assert text_of(events).startswith('{"city": "')


def test_text_behind_the_tag_in_one_token_does_not_escape_the_grammar(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the vocabulary had a token "</think>Yes"."""
    closing, real = engine.tokenize("</think>")[0], engine._model.vocabulary.piece
    seen: list[int] = []

    def piece(token: int) -> bytes:
        seen.append(token)
        return b"</think>Yes" if token == closing and seen.count(closing) == 1 else real(token)

    monkeypatch.setattr(engine._model.vocabulary, "piece", piece)
    events = run(engine, asked(engine, sampling=replace(GREEDY, grammar=ANSWER), n_logprobs=0))
    assert "Yes" not in text_of(events)
    thought, _, answer = text_of(events).partition("</think>")
    assert answer.lstrip("\n").startswith('{"city": "')
    # The tag was put there in place of the token, which is none of the reply's any more.
    assert "".join(entry.chosen.text for entry in logprobs_of(events)) == thought + answer


def test_a_grammar_that_cannot_be_parsed_safely_is_an_error_not_a_crash(demo_gguf: Path) -> None:
    """In a process of its own, since a crash would end it."""
    script = (
        "import sys; from pathlib import Path\n"
        "from qwenctl.core import GenerationRequest, SamplingParams\n"
        "from qwenctl.errors import InvalidRequest\n"
        "from qwenctl.services.engine import Engine, EngineOptions\n"
        "grammar = 'root ::= ' + '(' * 60_000 + '\"a\"' + ')' * 60_000\n"
        "with Engine.open(Path(sys.argv[1]), EngineOptions(n_ctx=64, n_threads=1)) as engine:\n"
        "    try: engine.submit(GenerationRequest('a', (50,), SamplingParams(grammar=grammar)))\n"
        "    except InvalidRequest as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(demo_gguf)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0
    assert "nested 60,000 deep" in ran.stdout


@pytest.mark.parametrize(
    "sampling", [GREEDY, SamplingParams(seed=3), SamplingParams(seed=3, temperature=3.0, top_k=64)]
)
def test_holding_the_best_tokens_only_changes_nothing(
    engine: Engine, sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(engine, think=None, sampling=replace(sampling, grammar='root ::= [a-z ]{5,40} "." [0-9]{2,8}'))
    quick = text_of(run(engine, request))
    monkeypatch.setattr(sampler_chain, "_BEST_HELD", 1 << 20)
    assert text_of(run(engine, request)) == quick
    monkeypatch.setattr(sampler_chain, "_BEST_HELD", 2)  # too few, most of the time
    assert text_of(run(engine, request)) == quick


def test_a_grammar_that_takes_too_long_ends_its_request_only(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_sampler, "_MOST_S", 0.0)
    slow = asked(engine, think=None, sampling=replace(GREEDY, grammar=ANSWER))
    events = run(engine, slow, asked(engine, QUESTIONS[1]))
    assert end_of(events, slow.request_id).reason is FinishReason.ERROR
    assert "s for one token" in str(end_of(events, slow.request_id).error)
    assert end_of(events, QUESTIONS[1]).reason is FinishReason.STOP


# --- logprobs, biases, progress --------------------------------------------------------------------------------------


def logprobs_of(events: Sequence[GenerationEvent]) -> list[TokenLogprob]:
    return [entry for event in events if isinstance(event, TextDelta) for entry in event.logprobs]


def test_logprobs_come_with_the_text_and_do_not_change_it(engine: Engine) -> None:
    request = asked(engine, think=None, n=20)
    events = run(engine, replace(request, n_logprobs=3))
    assert text_of(events) == text_of(run(engine, request))
    entries = logprobs_of(events)
    assert "".join(entry.chosen.text for entry in entries) == text_of(events)
    for entry in entries:
        assert len(entry.likeliest) == 3
        assert entry.chosen == entry.likeliest[0]  # temperature 0
        assert entry.chosen.logprob <= 0
        assert sum(np.exp(one.logprob) for one in entry.likeliest) <= 1.0001
    assert logprobs_of(run(engine, request)) == []
    assert all(entry.likeliest == () for entry in logprobs_of(run(engine, replace(request, n_logprobs=0))))


def test_logprobs_are_the_models_before_biases_and_temperature(engine: Engine) -> None:
    request = asked(engine, think=None, n=1, n_logprobs=1)
    free = logprobs_of(run(engine, request))[0]
    forced = engine.tokenize("Paris")[0]
    hot = SamplingParams(temperature=5.0, seed=1)
    bent = logprobs_of(run(engine, replace(request, logit_bias=(TokenBias(forced, 200.0),), sampling=hot)))[0]
    assert bent.chosen.token == forced
    assert bent.likeliest[0].logprob == pytest.approx(free.likeliest[0].logprob, abs=1e-4)


def test_logprobs_of_text_that_is_held_back_come_when_it_does(engine: Engine) -> None:
    events = run(engine, asked(engine, think=None, n=12, n_logprobs=0, stop=("<think>\nThe user asks for nothing",)))
    entries = logprobs_of(events)
    assert "".join(entry.chosen.text for entry in entries) == text_of(events)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logit_bias": (TokenBias(4096, 1.0),)}, "bias for token 4096"),
        ({"logit_bias": (TokenBias(-1, 1.0),)}, "bias for token -1"),
        ({"logit_bias": (TokenBias(5, float("nan")),)}, "-100 forbids"),
        ({"logit_bias": tuple(TokenBias(token, -100) for token in range(4096))}, "forbid every token"),
        ({"n_logprobs": -1}, "n_logprobs"),
        ({"n_logprobs": 5000}, "n_logprobs"),
    ],
)
def test_what_makes_no_sense_is_refused(engine: Engine, change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        engine.submit(asked(engine, **change))
    assert not engine.has_work


def test_progress_of_a_long_prompt_chunk_by_chunk(engine: Engine) -> None:
    engine._cache.forget_all()
    tokens = tuple(range(100, 300))
    request = GenerationRequest("long", tokens, GREEDY, 3, reports_progress=True)
    progress = [one for one in run(engine, request) if isinstance(one, PromptProgress)]
    assert [one.n_done_tokens for one in progress] == [64, 128, 192, 200]
    assert {(one.n_cached_tokens, one.n_total_tokens) for one in progress} == {(0, 200)}
    again = [one for one in run(engine, request) if isinstance(one, PromptProgress)]
    assert [(one.n_done_tokens, one.n_cached_tokens) for one in again] == [(200, 199)]
    assert not any(isinstance(one, PromptProgress) for one in run(engine, replace(request, reports_progress=False)))


def test_all_of_it_through_the_engines_process(demo_gguf: Path, engine: Engine) -> None:
    engine._cache.forget_all()
    request = asked(
        engine,
        think=replace(INSIDE, budget=2),
        n_logprobs=2,
        stop=("\n",),
        logit_bias=(TokenBias(50, -5.0),),
        reports_progress=True,
        n=60,
    )
    here = run(engine, request)
    with EngineProcess.open(demo_gguf, OPTIONS) as remote:
        there = run(remote, request)
    assert [one for one in there if not isinstance(one, Finished)] == [
        one for one in here if not isinstance(one, Finished)
    ]
    assert any(isinstance(one, PromptProgress) for one in there)
    for one in (here, there):
        assert end_of(one).thinking_end == "budget"
    assert end_of(here).stop_text == end_of(there).stop_text
