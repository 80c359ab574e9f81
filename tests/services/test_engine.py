"""The engine on a real chat model: SmolLM2-135M-Instruct, one thread, temperature 0 unless said otherwise."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest

from qwenctl.core import Finished, FinishReason, GenerationEvent, GenerationRequest, SamplingParams, TextDelta
from qwenctl.errors import GenerationFailed, InvalidRequest, ModelLoadFailed, PromptTooLong
from qwenctl.services.engine import Engine, EngineOptions
from qwenctl.services.native_model import NativeModel

GREEDY = SamplingParams(temperature=0)
QUESTIONS = (
    "What is the capital of France?",
    "Write a sentence about the sea.",
    "Name three colours.",
    "Why is the sky blue?",
    "What is two plus two?",
    "Tell me a joke about cats.",
    "Who wrote Hamlet?",
    "Describe a mountain in winter.",
)


@pytest.fixture(scope="module")
def engine(smollm2_gguf: Path) -> Iterator[Engine]:
    """Eight sequences, each with cells of its own."""
    with Engine.open(smollm2_gguf, EngineOptions(n_ctx=512, n_parallel=8, n_threads=1, n_ubatch=128)) as opened:
        yield opened
        opened.check_integrity()


@pytest.fixture(scope="module")
def small_pool(smollm2_gguf: Path) -> Iterator[Engine]:
    """Eight sequences that share few cells, with batches smaller than prompts."""
    options = EngineOptions(n_ctx=256, n_parallel=8, n_cells=256, n_threads=1, n_batch=32, n_ubatch=32)
    with Engine.open(smollm2_gguf, options) as opened:
        yield opened
        opened.check_integrity()


def chat(engine: Engine, question: str) -> tuple[int, ...]:
    return engine.tokenize(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")


def ask(
    engine: Engine,
    question: str,
    max_tokens: int | None = 16,
    sampling: SamplingParams = GREEDY,
    stop: tuple[str, ...] = (),
    name: str = "one",
) -> GenerationRequest:
    return GenerationRequest(name, chat(engine, question), sampling, max_tokens, stop)


def text_of(events: list[GenerationEvent], name: str = "one") -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta) and event.request_id == name)


def end_of(events: list[GenerationEvent], name: str = "one") -> Finished:
    (end,) = (event for event in events if isinstance(event, Finished) and event.request_id == name)
    return end


def run(engine: Engine, *requests: GenerationRequest) -> list[GenerationEvent]:
    for one in requests:
        engine.submit(one)
    events: list[GenerationEvent] = []
    while engine.has_work:
        events += engine.step()
        engine.check_integrity()
    return events


def plain_greedy(path: Path, tokens: tuple[int, ...], n_tokens: int) -> list[int]:
    """llama.cpp's API in its simplest form: one sequence, the whole prompt, then token by token."""
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch, params.flash_attn_type = 512, 1, 1, 0
    context = llama_cpp.llama_init_from_model(model, params)
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    generated: list[int] = []
    batch: list[int] = list(tokens)
    for _ in range(n_tokens):
        array = (llama_cpp.llama_token * len(batch))(*batch)
        assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(batch))) == 0
        logits = llama_cpp.llama_get_logits_ith(context, -1)
        batch = [max(range(n_vocab), key=logits.__getitem__)]
        generated += batch
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return generated


# --- text ------------------------------------------------------------------------------------------------------------


def test_greedy_text_is_llama_cpps_own(engine: Engine, smollm2_gguf: Path) -> None:
    tokens = chat(engine, "Write a sentence about the sea.")
    expected = engine.detokenize(plain_greedy(smollm2_gguf, tokens, 12))
    events = list(engine.generate(GenerationRequest("one", tokens, GREEDY, 12)))
    assert text_of(events) == expected
    assert len(expected) > 20
    end = end_of(events)
    assert (end.reason, end.usage.n_prompt_tokens, end.usage.n_generated_tokens) == ("length", len(tokens), 12)


def test_the_model_ends_its_turn_and_control_tokens_show_nothing(engine: Engine) -> None:
    events = list(engine.generate(ask(engine, "What is the capital of France?", 64)))
    assert text_of(events) == "The capital of France is Paris."
    assert end_of(events).reason is FinishReason.STOP


def test_many_at_once_say_what_each_says_alone(engine: Engine) -> None:
    alone = [text_of(list(engine.generate(ask(engine, question)))) for question in QUESTIONS]
    events = run(engine, *(ask(engine, question, name=question) for question in QUESTIONS))
    assert [text_of(events, question) for question in QUESTIONS] == alone
    assert len(set(alone)) == len(QUESTIONS)


def test_a_small_shared_cache_finishes_more_than_it_can_hold(engine: Engine, small_pool: Engine) -> None:
    """Eight times 45 tokens in 256 cells: the newest are held back and computed again, and nothing is lost."""
    names = [f"{number}" for number in range(8)]
    asked = [ask(small_pool, question, 32, name=name) for question, name in zip(QUESTIONS, names, strict=True)]
    events = run(small_pool, *asked)
    expected = run(engine, *asked)
    ends = [end_of(events, name) for name in names]
    assert {end.reason for end in ends} <= {FinishReason.STOP, FinishReason.LENGTH}
    assert all(end.usage.n_generated_tokens == 32 for end in ends if end.reason is FinishReason.LENGTH)
    same_beginning = sum(text_of(events, name)[:20] == text_of(expected, name)[:20] for name in names)
    assert same_beginning >= 6  # other cells, other batches: low bits may differ


def test_a_prompt_longer_than_a_batch_is_computed_in_chunks(engine: Engine, small_pool: Engine) -> None:
    tokens = engine.tokenize("The quick brown fox jumps over the lazy dog. " * 16)
    assert 128 < len(tokens) < 250
    texts = [text_of(list(one.generate(GenerationRequest("one", tokens, GREEDY, 4)))) for one in (engine, small_pool)]
    assert texts[0] == texts[1] != ""


def test_generating_goes_on_while_a_long_prompt_is_computed(small_pool: Engine) -> None:
    small_pool.submit(ask(small_pool, "Count to ten.", 24, name="short"))
    small_pool.step()
    small_pool.submit(GenerationRequest("long", small_pool.tokenize("word " * 150), GREEDY, 1))
    finished, n_deltas = False, 0
    while not finished:
        events = small_pool.step()
        n_deltas += any(event.request_id == "short" for event in events)
        finished = any(isinstance(event, Finished) and event.request_id == "long" for event in events)
    assert n_deltas >= 4  # 150 tokens at 31 a step
    run(small_pool)


# --- prefixes --------------------------------------------------------------------------------------------------------


def test_the_next_turn_computes_only_what_is_new(engine: Engine) -> None:
    first = ask(engine, "My name is Ada. " + "I like mathematics. " * 8, 12)
    said = text_of(list(engine.generate(first)))
    history = "My name is Ada. " + "I like mathematics. " * 8
    turns = f"<|im_start|>user\n{history}<|im_end|>\n<|im_start|>assistant\n{said}<|im_end|>\n"
    tokens = engine.tokenize(turns + "<|im_start|>user\nWhat is my name?<|im_end|>\n<|im_start|>assistant\n")
    again = GenerationRequest("one", tokens, GREEDY, 10)
    events = list(engine.generate(again))
    assert len(first.prompt_tokens) <= end_of(events).usage.n_cached_tokens < len(tokens)
    other = list(engine.generate(ask(engine, "Something else entirely", 2)))
    assert end_of(other).reason is FinishReason.LENGTH
    assert [text_of(events)] == _fresh_texts(engine, again)


def _fresh_texts(engine: Engine, *requests: GenerationRequest) -> list[str]:
    """What they say with nothing in the cache."""
    texts = []
    for one in requests:
        engine._cache.forget_all()
        events = list(engine.generate(one))
        assert end_of(events, one.request_id).usage.n_cached_tokens == 0
        texts.append(text_of(events, one.request_id))
    return texts


@pytest.mark.parametrize("layout", ["engine", "small_pool"])
def test_a_common_beginning_is_computed_once(layout: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(layout)
    system = (
        "<|im_start|>system\n" + "You answer in one short sentence and you are always polite. " * 6 + "<|im_end|>\n"
    )
    asked = [GenerationRequest(name, engine.tokenize(system) + chat(engine, name), GREEDY, 6) for name in QUESTIONS[:3]]
    engine._cache.forget_all()
    events = run(engine, *asked)
    n_common = len(engine.tokenize(system))
    cached = [end_of(events, name).usage.n_cached_tokens for name in QUESTIONS[:3]]
    assert cached[0] == 0
    assert min(cached[1:]) > n_common - 32  # less is sooner computed than waited for
    assert [text_of(events, name) for name in QUESTIONS[:3]] == _fresh_texts(engine, *asked)


def test_the_same_prompt_again_computes_one_token(engine: Engine) -> None:
    asked = ask(engine, "Name a fruit.", 5)
    first, second = (list(engine.generate(asked)) for _ in range(2))
    assert end_of(second).usage.n_cached_tokens == len(asked.prompt_tokens) - 1
    assert text_of(first) == text_of(second)


# --- how it ends -----------------------------------------------------------------------------------------------------


def test_a_stop_string_across_tokens_ends_the_text_and_is_not_part_of_it(engine: Engine) -> None:
    events = list(engine.generate(ask(engine, "What is the capital of France?", 32, stop=("zebra", "is Par"))))
    assert text_of(events) == "The capital of France "
    assert end_of(events).reason is FinishReason.STOP


def test_the_end_of_the_context_ends_the_text(small_pool: Engine) -> None:
    tokens = small_pool.tokenize("one two three four five six seven eight nine ten " * 25)[:250]
    events = list(small_pool.generate(GenerationRequest("one", tokens, GREEDY, None)))
    assert end_of(events).reason is FinishReason.LENGTH
    assert end_of(events).usage.n_generated_tokens == 6


def test_a_prompt_that_fills_the_context_is_refused_with_both_counts(small_pool: Engine) -> None:
    with pytest.raises(PromptTooLong, match="256 tokens long, but the context holds 256"):
        small_pool.submit(GenerationRequest("one", (1,) * 256))
    assert not small_pool.has_work


@pytest.mark.parametrize(
    ("tokens", "max_tokens", "message"),
    [((), 5, "empty"), ((1, 49152), 5, "does not have"), ((-1, 1), 5, "does not have"), ((1,), 0, "max_tokens")],
)
def test_requests_that_make_no_sense(engine: Engine, tokens: tuple[int, ...], max_tokens: int, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        engine.submit(GenerationRequest("one", tokens, GREEDY, max_tokens))
    assert not engine.has_work


def test_two_requests_of_one_name_are_refused(engine: Engine) -> None:
    engine.submit(ask(engine, "Hello", 1))
    with pytest.raises(InvalidRequest, match="'one' under way"):
        engine.submit(ask(engine, "Hello", 1))
    run(engine)
    assert text_of(run(engine, ask(engine, "What is the capital of France?", 3))) == "The capital of"


def test_cancelling_between_steps_ends_one_and_not_the_other(engine: Engine) -> None:
    engine.submit(ask(engine, "Tell me a long story.", 60, name="one"))
    engine.submit(ask(engine, "Why is the sky blue?", 12, name="two"))
    events = engine.step() + engine.step() + engine.step()
    engine.cancel("one")
    engine.cancel("nobody")
    while engine.has_work:
        events += engine.step()
    assert end_of(events, "one").reason is FinishReason.CANCELLED
    assert 0 < end_of(events, "one").usage.n_generated_tokens < 60
    assert end_of(events, "two").reason is FinishReason.LENGTH


def test_cancelling_before_the_first_step_computes_nothing(engine: Engine) -> None:
    engine.submit(ask(engine, "Hello"))
    engine.cancel("one")
    (end,) = engine.step()
    assert isinstance(end, Finished)
    assert (end.reason, end.usage.n_generated_tokens, end.timing.prefill_s) == (FinishReason.CANCELLED, 0, 0.0)


def test_another_thread_breaks_off_a_long_prompt(engine: Engine) -> None:
    tokens = engine.tokenize("alpha beta gamma delta " * 120)[:500]
    engine._cache.forget_all()
    engine.submit(GenerationRequest("one", tokens, GREEDY, 4))
    alarm = threading.Timer(0.02, engine.cancel, ["one"])
    alarm.start()
    events: list[GenerationEvent] = []
    while engine.has_work:
        events += engine.step()
    alarm.join()
    assert end_of(events).reason is FinishReason.CANCELLED
    assert end_of(events).usage.n_generated_tokens == 0
    engine.check_integrity()
    assert text_of(list(engine.generate(ask(engine, "What is the capital of France?", 64)))).endswith("Paris.")


def test_leaving_the_iterator_ends_the_request(engine: Engine) -> None:
    events = engine.generate(ask(engine, "Tell me a long story.", 100))
    next(events)
    with pytest.raises(InvalidRequest, match="at work"):
        next(engine.generate(ask(engine, "Hello")))
    events.close()  # type: ignore[attr-defined]
    assert not engine.has_work


def test_an_interrupted_wait_leaves_a_usable_engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a second Ctrl-C does: KeyboardInterrupt in the middle of a step."""
    engine.submit(ask(engine, "What is the capital of France?", 64))
    events = engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(engine._thread, "run", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    assert text_of(events + run(engine)) == "The capital of France is Paris."


def _interrupted(call: object, meanwhile: object) -> int:
    raise KeyboardInterrupt


def test_ctrl_c_reaches_into_a_long_computation(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = engine.tokenize("alpha beta gamma delta " * 120)[:500]
    engine._cache.forget_all()
    engine.submit(GenerationRequest("one", tokens, GREEDY, 4))
    decode = engine._model.decode

    def interrupted_decode() -> int:
        os.kill(os.getpid(), signal.SIGINT)  # in the native thread, while the main thread waits for it
        return decode()

    with monkeypatch.context() as patch:
        patch.setattr(engine._model, "decode", interrupted_decode)
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    engine.check_integrity()
    assert end_of(run(engine)).usage.n_generated_tokens == 4
    assert text_of(run(engine, ask(engine, "What is the capital of France?", 64))).endswith("Paris.")


def test_failures_of_llama_cpp_end_the_requests_and_then_the_engine(
    smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine.open(smollm2_gguf, EngineOptions(n_ctx=256, n_parallel=2, n_threads=1, repack=False)) as engine:
        monkeypatch.setattr(engine._model, "decode", lambda: -3)
        events = run(engine, ask(engine, "Hello"))
        assert end_of(events).reason is FinishReason.ERROR
        assert "status -3" in (end_of(events).error or "")
        with monkeypatch.context() as patch:
            patch.undo()
        with pytest.raises(GenerationFailed, match="status -3"):
            list(engine.generate(ask(engine, "Hello")))
        with pytest.raises(GenerationFailed, match="several times"):
            engine.submit(ask(engine, "Hello"))


def test_no_room_by_llama_cpps_count_loses_no_request(small_pool: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([1, 1, 1])
    decode = small_pool._model.decode
    monkeypatch.setattr(small_pool._model, "decode", lambda: next(answers, None) or decode())
    asked = [ask(small_pool, question, 8, name=question) for question in QUESTIONS[:3]]
    events = run(small_pool, *asked)
    assert {end_of(events, question).reason for question in QUESTIONS[:3]} <= {FinishReason.LENGTH, FinishReason.STOP}
    assert sum(text_of(events, question) != "" for question in QUESTIONS[:3]) >= 2


def test_closing_ends_what_is_under_way(smollm2_gguf: Path) -> None:
    engine = Engine.open(smollm2_gguf, EngineOptions(n_ctx=256, n_parallel=2, n_threads=1, repack=False))
    for name in ("one", "two", "waiting"):
        engine.submit(ask(engine, "Tell me a long story.", 100, name=name))
    engine.step()
    engine.close()
    engine.close()
    events = engine.step()
    assert {end_of(events, name).reason for name in ("one", "two", "waiting")} == {FinishReason.CANCELLED}
    assert engine.step() == []
    assert not engine.has_work
    for call in (lambda: engine.tokenize("a"), lambda: engine.submit(GenerationRequest("one", (1,)))):
        with pytest.raises(GenerationFailed, match="closed"):
            call()


# --- sampling --------------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_text_again_and_another_seed_another(engine: Engine) -> None:
    def say(seed: int | None) -> tuple[str, int]:
        sampling = SamplingParams(temperature=1.2, top_k=0, top_p=1.0, seed=seed)
        events = list(engine.generate(ask(engine, "Write a sentence about the sea.", 12, sampling)))
        return text_of(events), end_of(events).timing.seed

    first = say(7)
    assert first == say(7)
    assert first[1] == 7
    assert say(8)[0] != first[0]
    text, seed = say(None)
    assert say(seed)[0] == text


def test_a_grammar_is_obeyed_and_its_end_ends_the_text(engine: Engine) -> None:
    sampling = SamplingParams(temperature=0, grammar='root ::= ("yes" | "no") "!" [0-9] [0-9]')
    events = list(engine.generate(ask(engine, "Is water wet?", 20, sampling)))
    text = text_of(events)
    assert text[:-2] in ("yes!", "no!")
    assert text[-2:].isdigit()
    assert end_of(events).reason is FinishReason.STOP


def test_characters_of_several_tokens_come_whole(engine: Engine) -> None:
    sampling = SamplingParams(temperature=0, grammar='root ::= "🦊é€漢" "🦉"')
    events = list(engine.generate(ask(engine, "Say something.", 30, sampling)))
    assert text_of(events) == "🦊é€漢🦉"
    assert "\ufffd" not in "".join(event.text for event in events if isinstance(event, TextDelta))
    assert end_of(events).usage.n_generated_tokens > 5


def test_a_grammar_with_sampling_and_penalties(engine: Engine) -> None:
    sampling = SamplingParams(
        temperature=0.8, top_p=0.9, min_p=0.05, repeat_penalty=1.3, seed=3, grammar='root ::= [a-z]+ ("," [a-z]+)* "."'
    )
    events = list(engine.generate(ask(engine, "List animals.", 24, sampling)))
    assert set(text_of(events)) <= set("abcdefghijklmnopqrstuvwxyz,.")
    assert text_of(events)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("root ::= (", "not closed"),
        ("start ::= [a-z]", "refuses the grammar"),
        ("root ::= root root", "begins with itself"),
        ("root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000, "nested"),
        ("", "empty"),
    ],
)
def test_bad_grammars_are_refused_before_anything_is_computed(engine: Engine, grammar: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        engine.submit(ask(engine, "Hello", sampling=SamplingParams(grammar=grammar)))
    assert not engine.has_work


def test_penalties_see_the_prompt(engine: Engine) -> None:
    tokens = engine.tokenize("red blue red blue red blue red blue red")
    plain = GenerationRequest("one", tokens, GREEDY, 4)
    strict = SamplingParams(temperature=0, presence_penalty=2.0, frequency_penalty=2.0, repeat_penalty=2.0)
    assert text_of(list(engine.generate(plain))).startswith(" blue")
    assert not text_of(list(engine.generate(GenerationRequest("one", tokens, strict, 4)))).startswith(" blue")


# --- the rest --------------------------------------------------------------------------------------------------------


def test_tokens_and_text(engine: Engine) -> None:
    assert engine.tokenize("<|im_start|>") == (1,)
    assert len(engine.tokenize("<|im_start|>", parse_special=False)) > 1
    text = "Grüße, 世界 🦊 \n\t<b>"
    assert engine.detokenize(engine.tokenize(text)) == text
    assert engine.detokenize(engine.tokenize("a<|im_end|>b")) == "ab"
    assert engine.tokenize("") == ()
    assert engine.tokenize("half \ud800 pair")


def test_what_the_model_says_of_itself(engine: Engine, smollm2_gguf: Path) -> None:
    info = engine.info
    assert (info.architecture, info.n_layers, info.n_vocab, info.n_ctx_train) == ("llama", 30, 49152, 8192)
    assert (info.n_ctx, info.n_experts, info.n_weights) == (512, 0, 134_515_008)
    assert info.file_bytes == smollm2_gguf.stat().st_size
    assert (info.bos_token, info.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert info.chat_template


def test_times_are_the_clocks(smollm2_gguf: Path) -> None:
    ticks = iter(range(1000))
    options = EngineOptions(n_ctx=256, n_threads=1, repack=False)
    with Engine.open(smollm2_gguf, options, clock=lambda: float(next(ticks))) as engine:
        timing = end_of(list(engine.generate(ask(engine, "Hello", 3)))).timing
    # submitted 0, started 1, first token 2, end 3
    assert (timing.queued_s, timing.prefill_s, timing.decode_s) == (1.0, 1.0, 1.0)


def test_native_code_prints_nothing(smollm2_gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Engine.open(smollm2_gguf, EngineOptions(n_ctx=256, n_threads=1, repack=False)) as engine:
        list(engine.generate(ask(engine, "Hello", 2)))
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\3" * 60)
    with pytest.raises(ModelLoadFailed, match=r"bad\.gguf: "):
        Engine.open(tmp_path / "bad.gguf")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "options", [{"n_ctx": 0}, {"n_parallel": 500}, {"n_threads": 0}, {"n_ctx": 512, "n_cells": 256}]
)
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest, match="must"):
        EngineOptions(**options)  # type: ignore[arg-type]


def test_the_model_is_opened_on_the_thread_that_computes(smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second OpenMP team, of the thread that loads, would halve the speed: see native_thread.py."""
    threads: dict[str, int] = {}
    load, decode = NativeModel._load, NativeModel.decode

    def noted_load(self: NativeModel, *args: object) -> object:
        threads["load"] = threading.get_ident()
        return load(self, *args)  # type: ignore[arg-type]

    def noted_decode(self: NativeModel) -> int:
        threads["decode"] = threading.get_ident()
        return decode(self)

    monkeypatch.setattr(NativeModel, "_load", noted_load)
    monkeypatch.setattr(NativeModel, "decode", noted_decode)
    with Engine.open(smollm2_gguf, EngineOptions(n_ctx=256, n_threads=1, repack=False)) as engine:
        run(engine, ask(engine, "Hello", 2))
    assert threads["load"] == threads["decode"] != threading.get_ident()


def test_ctrl_c_ends_the_loading_of_a_model(smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, after, threads_before = NativeModel._load, [], set(threading.enumerate())

    def interrupted_load(self: NativeModel, *args: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        while not self._abort_flag.is_set:  # the main thread has noticed
            time.sleep(0.01)
        try:
            return load(self, *args)  # type: ignore[arg-type]
        except ModelLoadFailed:
            after.append("stopped")
            raise

    monkeypatch.setattr(NativeModel, "_load", interrupted_load)
    with pytest.raises(KeyboardInterrupt):
        Engine.open(smollm2_gguf, EngineOptions(n_ctx=256, n_threads=1, repack=False))
    assert after == ["stopped"]
    assert set(threading.enumerate()) <= threads_before
