"""Messages to replies on real models: SmolLM2 (a chat model that does not think), the demo (a hybrid one)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from qwenctl.core import FinishReason, Message
from qwenctl.errors import PromptTooLong
from qwenctl.services.batch import BatchOptions, run_batch
from qwenctl.services.conversation import Conversation
from qwenctl.services.engine import Engine
from qwenctl.services.engine_options import EngineOptions
from qwenctl.services.generation import ChatModel, ChatOptions
from qwenctl.services.reply import AnswerDelta, ReplyDone
from tests.chat_templates import QWEN3

GREEDY = {"temperature": 0.0}


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Iterator[ChatModel]:
    options = EngineOptions(n_ctx=512, n_parallel=4, n_threads=2)
    with Engine.open(smollm2_gguf, options) as engine, closing(ChatModel(engine)) as model:
        yield model


@pytest.fixture(scope="module")
def demo(demo_gguf: Path) -> Iterator[ChatModel]:
    with Engine.open(demo_gguf, EngineOptions(n_ctx=512, n_threads=2)) as engine, closing(ChatModel(engine)) as model:
        yield model


def test_a_conversation_of_two_turns(smollm2: ChatModel) -> None:
    talk = Conversation().add_user("What is the capital of France? Answer in one short sentence.")
    events = list(smollm2.stream(talk.messages, ChatOptions(sampling=GREEDY, max_tokens=30)))
    first = events[-1]
    assert isinstance(first, ReplyDone)
    assert "".join(event.text for event in events if isinstance(event, AnswerDelta)) == first.answer
    assert (first.reason, first.reasoning, first.closed) == (FinishReason.STOP, None, True)
    assert "Paris" in first.answer
    talk = talk.add_assistant(first.answer).add_user("And what language is spoken there?")
    second = list(smollm2.stream(talk.messages, ChatOptions(sampling=GREEDY, max_tokens=40)))[-1]
    assert isinstance(second, ReplyDone)
    assert "French" in second.answer
    assert second.usage.n_cached_tokens >= first.usage.n_prompt_tokens  # only what is new was computed


def test_a_model_that_does_not_think(smollm2: ChatModel) -> None:
    assert smollm2.capabilities.thinking == "none"
    prepared = smollm2.prepare([Message("user", "Hello")], ChatOptions(thinking=True))
    assert prepared.notes == ("the model does not think: --think is ignored",)
    assert prepared.sampling.params.top_k == 40
    assert prepared.request.max_tokens == 512 - len(prepared.request.prompt_tokens)


def test_a_reply_that_is_closed_early_leaves_the_engine_usable(smollm2: ChatModel) -> None:
    ask = [Message("user", "Count from one to one hundred.")]
    reply = smollm2.stream(ask, ChatOptions(sampling=GREEDY))
    for _ in range(5):
        next(reply)
    reply.close()
    assert reply.answer
    cancelled = smollm2.stream(ask, ChatOptions(sampling=GREEDY))
    next(cancelled)
    cancelled.cancel()
    done = list(cancelled)[-1]
    assert isinstance(done, ReplyDone)
    assert done.reason is FinishReason.CANCELLED
    assert done.answer == cancelled.answer


def test_too_long_for_the_real_context(smollm2: ChatModel) -> None:
    long = [Message("user", "word " * 2000 + "Say hello.")]
    with pytest.raises(PromptTooLong, match="but the context holds 512"):
        smollm2.prepare(long)
    cut = smollm2.prepare(long, ChatOptions(overflow="truncate-middle", max_tokens=2))
    assert cut.truncated is not None
    assert 400 < cut.truncated.n_tokens_after == len(cut.request.prompt_tokens) <= 512 - 2


def test_a_batch_says_what_single_requests_say(smollm2: ChatModel, tmp_path: Path) -> None:
    cities = ["France", "Italy", "Spain", "Japan", "Egypt", "Norway", "Peru", "Kenya"]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"id": city, "prompt": f"What is the capital of {city}?", "max_tokens": 10} for city in cities]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    chat = ChatOptions(sampling=GREEDY)
    summary = run_batch(smollm2, source, target, BatchOptions(chat, parallel=4))
    assert (summary.n_done, summary.n_errors) == (8, 0)
    records = {record["custom_id"]: record for record in map(json.loads, target.read_text().splitlines())}
    assert set(records) == set(cities)
    n_same = 0
    for line in lines:
        message = records[line["id"]]["response"]["body"]["choices"][0]["message"]
        alone = list(smollm2.stream([Message("user", line["prompt"])], ChatOptions(sampling=GREEDY, max_tokens=10)))
        assert isinstance(alone[-1], ReplyDone)
        n_same += message["content"] == alone[-1].answer
    assert n_same >= 7  # sums of floats depend on what is computed together
    assert run_batch(smollm2, source, target, BatchOptions(chat, parallel=4)).n_skipped == 8


def test_the_demo_has_qwen3s_template_and_modes(demo: ChatModel) -> None:
    assert demo.engine.info.chat_template == QWEN3
    capabilities = demo.capabilities
    assert (capabilities.thinking, capabilities.thinks_by_default, capabilities.tools) == ("hybrid", True, True)
    thinking = demo.prepare([Message("user", "Hello")])
    assert (thinking.sampling.params.temperature, thinking.sampling.origins["temperature"]) == (0.6, "file")
    plain = demo.prepare([Message("user", "Hello")], ChatOptions(thinking=False))
    assert plain.text.endswith("<think>\n\n</think>\n\n")
    assert (plain.sampling.params.temperature, plain.sampling.origins["temperature"]) == (0.7, "mode")
