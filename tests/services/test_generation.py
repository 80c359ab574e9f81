from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from qwenctl.core import FinishReason, Message, PromptProgress, ThinkBlock, TokenBias
from qwenctl.errors import GenerationFailed, InvalidRequest, PromptTooLong, TemplateFailed
from qwenctl.services.chat_template import ChatTemplate
from qwenctl.services.generation import ChatModel, ChatOptions
from qwenctl.services.reply import AnswerDelta, ReasoningDelta, ReplyDone
from qwenctl.services.thinking_mode import EARLY_STOP, ENDING
from tests.chat_templates import CHATML, KEEPS_REASONING, QWEN3, THINKING_2507
from tests.scripted_engine import ScriptedEngine

HELLO = [Message("user", "Hello")]
HYBRID = ["<think>", "\n", "hm", "\n", "</think>", "\n\n", "Hi", " there"]


@pytest.fixture(scope="module")
def templates() -> Iterator[dict[str, ChatTemplate]]:
    """Templates that tests of this file share, since each has a child process."""
    started: dict[str, ChatTemplate] = {}
    yield started
    for template in started.values():
        template.close()


@pytest.fixture
def opened(templates: dict[str, ChatTemplate]) -> Any:
    """Opens scripted models."""

    def open_model(*replies: Sequence[str | Exception], template: str | None = QWEN3, **engine: Any) -> ChatModel:
        if template and template not in templates:
            templates[template] = ChatTemplate(template)
        scripted = ScriptedEngine(replies, **engine)
        return ChatModel(scripted, templates[template] if template else None)

    return open_model


def test_a_hybrid_reply_from_messages_to_events(opened: Any) -> None:
    model = opened(HYBRID)
    events = list(model.stream([Message("system", "Be kind."), *HELLO]))
    assert events[:-1] == [ReasoningDelta("hm"), AnswerDelta("Hi"), AnswerDelta(" there")]
    done = events[-1]
    assert isinstance(done, ReplyDone)
    assert (done.reasoning, done.answer, done.closed, done.reason) == ("hm", "Hi there", True, FinishReason.STOP)
    assert (done.usage.n_generated_tokens, done.n_reasoning_tokens) == (8, 5)
    assert model.engine.prompts == [
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    ]


@pytest.mark.parametrize(
    ("template", "options", "text", "thinking", "ending", "max_tokens"),
    [
        (QWEN3, None, "Hello", True, "assistant\n", 32_768),
        (QWEN3, True, "Hello", True, "assistant\n", 32_768),
        (QWEN3, False, "Hello", False, "<think>\n\n</think>\n\n", 16_384),
        (QWEN3, None, "Hello /no_think", False, "assistant\n", 16_384),
        (QWEN3, True, "Hello /no_think", False, "assistant\n", 16_384),
        (QWEN3, False, "Hello /think", False, "<think>\n\n</think>\n\n", 16_384),
        (THINKING_2507, None, "Hello", True, "<think>\n", 32_768),
        (CHATML, None, "Hello", False, "assistant\n", 16_384),
    ],
)
def test_modes(
    opened: Any, template: str, options: bool | None, text: str, thinking: bool, ending: str, max_tokens: int
) -> None:
    model = opened(template=template, n_ctx=50_000)
    prepared = model.prepare([Message("user", text)], ChatOptions(thinking=options))
    assert (prepared.thinking, prepared.starts_inside) == (thinking, ending == "<think>\n")
    assert prepared.text.endswith(ending)
    assert prepared.request.max_tokens == max_tokens
    assert prepared.sampling.params.temperature == (0.6 if thinking else 0.7)
    assert prepared.notes == ()


def test_ignored_switches_are_noted(opened: Any) -> None:
    never = opened(template=CHATML).prepare(HELLO, ChatOptions(thinking=True))
    assert never.notes == ("the model does not think: --think is ignored",)
    always = opened(template=THINKING_2507).prepare(HELLO, ChatOptions(thinking=False))
    assert always.notes == ("the model always thinks: --no-think is ignored",)
    assert opened(template=CHATML).prepare(HELLO, ChatOptions(thinking=False)).notes == ()


def test_thinking_2507_output_has_only_the_closing_tag(opened: Any) -> None:
    model = opened(["h", "m</th", "ink>\n", "\nYes"], template=THINKING_2507)
    done = list(model.stream(HELLO))[-1]
    assert (done.reasoning, done.answer, done.n_reasoning_tokens) == ("hm", "Yes", 3)


def test_reasoning_that_is_cut_off(opened: Any) -> None:
    done = list(opened(HYBRID).stream(HELLO, ChatOptions(max_tokens=3)))[-1]
    assert (done.reasoning, done.answer, done.closed) == ("hm", "", False)
    assert (done.reason, done.n_reasoning_tokens) == (FinishReason.LENGTH, 3)


def test_an_empty_think_block_is_no_reasoning(opened: Any) -> None:
    done = list(opened(["<think>\n\n</think>\n\n", "Yes"]).stream(HELLO))[-1]
    assert (done.reasoning, done.answer, done.n_reasoning_tokens) == (None, "Yes", 0)


@pytest.mark.parametrize("template", [QWEN3, THINKING_2507, KEEPS_REASONING, CHATML])
@pytest.mark.parametrize("apart", [True, False])
def test_no_earlier_thinking_in_the_history(opened: Any, template: str, apart: bool) -> None:
    answer = Message("assistant", "b", "secret") if apart else Message("assistant", "<think>\nsecret\n</think>\n\nb")
    prepared = opened(template=template).prepare([Message("user", "a"), answer, Message("user", "c")])
    assert "secret" not in prepared.text
    assert "think>" not in prepared.text.removesuffix("<think>\n")


def test_thinking_between_tool_calls_is_kept(opened: Any) -> None:
    call = Message("assistant", "", "needed", {"tool_calls": [{"function": {"name": "f", "arguments": {}}}]})
    turn = [Message("user", "a"), call, Message("tool", "5")]
    for template in (QWEN3, KEEPS_REASONING):
        assert "needed" in opened(template=template).prepare(turn).text


def _chain(kind: str) -> list[Message]:
    """A first turn that is over, and one in which the model waits for a second tool result."""
    call = {"tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    result = Message("tool", "5") if kind == "tool" else Message("user", "<tool_response>\n5\n</tool_response>")
    return [
        Message("user", "a"),
        Message("assistant", "", "secret one", call),
        result,
        Message("assistant", "<think>\nsecret two\n</think>\n\nb"),
        Message("user", "c"),
        Message("assistant", "", "needed one", call),
        result,
        Message("assistant", "<think>\nneeded two\n</think>\n\nand", None, call),
        result,
    ]


@pytest.mark.parametrize("template", [QWEN3, THINKING_2507, KEEPS_REASONING])
@pytest.mark.parametrize("kind", ["tool", "user"])
def test_a_chain_of_tools_keeps_its_own_thinking_and_no_earlier(opened: Any, template: str, kind: str) -> None:
    text = opened(template=template).prepare(_chain(kind)).text
    assert "secret" not in text
    assert text.count("needed one") == 1
    assert text.count("needed two") == 1


def test_a_question_ends_the_chain(opened: Any) -> None:
    turns = [*_chain("tool"), Message("assistant", "done", "needed three"), Message("user", "d")]
    for template in (QWEN3, KEEPS_REASONING):
        assert "needed" not in opened(template=template).prepare(turns).text


def test_where_sampling_came_from(opened: Any) -> None:
    model = opened(sampling_defaults={"temp": 0.5})
    prepared = model.prepare(HELLO, ChatOptions(sampling={"seed": 3}))
    assert (prepared.request.sampling.temperature, prepared.request.sampling.seed) == (0.5, 3)
    assert prepared.sampling.origins["temperature"] == "file"
    assert model.prepare(HELLO, ChatOptions(thinking=False)).request.sampling.temperature == 0.7


def test_a_long_prompt_is_refused_with_both_counts(opened: Any) -> None:
    model = opened(template=CHATML, n_ctx=200)
    with pytest.raises(PromptTooLong, match="the prompt is 350 tokens long, but the context holds 200"):
        model.prepare([Message("user", "x" * 300)])
    exact = model.prepare([Message("user", "x" * (199 - 50))])
    assert (len(exact.request.prompt_tokens), exact.request.max_tokens) == (199, 1)
    with pytest.raises(PromptTooLong):
        model.prepare([Message("user", "x" * (200 - 50))])


def test_a_prompt_that_is_to_be_cut_is_cut_and_says_so(opened: Any) -> None:
    """What is cut is overflow/test_middle_cut.py's."""
    model = opened(template=CHATML, n_ctx=400)
    messages = [Message("user", "begin " + "x" * 1000 + " end")]
    prepared = model.prepare(messages, ChatOptions(overflow="truncate-middle", max_tokens=50))
    assert prepared.truncated is not None
    assert 300 <= prepared.truncated.n_tokens_after == len(prepared.request.prompt_tokens) <= 350
    assert prepared.notes[-1] == prepared.truncated.sentence
    assert "xxx end<" in prepared.text
    with pytest.raises(PromptTooLong) as caught:
        model.prepare(messages, ChatOptions(overflow="summarise"))  # overflow/condense.py does that before
    assert "--overflow" in (caught.value.hint or "")


def test_a_prompt_that_leaves_no_room_for_an_answer_is_cut_too(opened: Any) -> None:
    model = opened(template=CHATML, n_ctx=400)
    messages = [Message("user", "x" * 345)]
    assert model.prepare(messages).request.max_tokens == 5
    assert model.prepare(messages, ChatOptions(overflow="truncate-middle")).request.max_tokens >= 100


def test_a_long_system_prompt_cannot_be_cut(opened: Any) -> None:
    model = opened(template=CHATML, n_ctx=200)
    with pytest.raises(PromptTooLong):
        model.prepare([Message("system", "x" * 300), *HELLO], ChatOptions(overflow="truncate-middle"))


def test_without_a_template_the_text_is_completed(opened: Any) -> None:
    model = opened([" time"], template=None)
    prepared = model.prepare([Message("user", "Once upon a")])
    assert prepared.text == "Once upon a"
    assert "no chat template" in prepared.notes[0]
    assert [event.text for event in model.reply(prepared) if isinstance(event, AnswerDelta)] == [" time"]
    assert model.prepare([Message("user", "x" * 5000)], ChatOptions(overflow="truncate-middle")).truncated is not None


def test_closing_keeps_the_partial_turn_and_frees_the_engine(opened: Any) -> None:
    model = opened(HYBRID, ["next"])
    reply = model.stream(HELLO)
    for event in reply:
        if isinstance(event, AnswerDelta):
            break
    reply.close()
    assert (reply.reasoning, reply.answer) == ("hm", "Hi")
    assert not model.engine.has_work
    assert next(reply, None) is None
    assert list(model.stream(HELLO))[-1].answer == "next"


def test_cancelling_ends_the_reply_with_what_came(opened: Any) -> None:
    reply = opened(HYBRID).stream(HELLO)
    events = []
    for event in reply:
        events.append(event)
        if isinstance(event, ReasoningDelta):
            reply.cancel()
    assert isinstance(events[-1], ReplyDone)
    assert (events[-1].reason, events[-1].reasoning, events[-1].closed) == (FinishReason.CANCELLED, "hm", False)


def test_an_engine_that_fails_raises_and_leaves_what_came(opened: Any) -> None:
    reply = opened(["Hi", RuntimeError("decode failed")]).stream(HELLO)
    with pytest.raises(GenerationFailed, match="decode failed"):
        list(reply)
    assert reply.answer == "Hi"


def test_the_models_own_template_is_used_with_its_special_tokens() -> None:
    engine = ScriptedEngine(chat_template="{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    model = ChatModel(engine)
    assert model.prepare(HELLO).text == "<s>Hello</s>"
    model.close()


def test_refused_input(opened: Any) -> None:
    model = opened()
    with pytest.raises(InvalidRequest, match="no message"):
        model.prepare([])
    with pytest.raises(InvalidRequest, match="half of a surrogate pair"):
        model.prepare([Message("user", "a\ud800")])
    with pytest.raises(InvalidRequest, match="top_p must lie between"):
        model.prepare(HELLO, ChatOptions(sampling={"top_p": 7.0}))
    with pytest.raises(TemplateFailed, match="syntax error"):
        opened(template="{% if %}").prepare(HELLO)


def test_options_reach_the_engine(opened: Any) -> None:
    model = opened(template=CHATML + "{{ style }}")
    options = ChatOptions(stop=("END",), max_tokens=5, template_variables={"style": "formal"})
    prepared = model.prepare(HELLO, options, request_id="mine")
    assert (prepared.request.request_id, prepared.request.stop, prepared.request.max_tokens) == ("mine", ("END",), 5)
    assert prepared.text.endswith("formal")
    assert model.prepare(HELLO).request.request_id != model.prepare(HELLO).request.request_id


def test_what_the_engine_is_told_of_the_thinking(opened: Any) -> None:
    model = opened()
    assert model.prepare(HELLO).request.think == ThinkBlock(False, None, ENDING)
    budget = model.prepare(HELLO, ChatOptions(think_budget=40_000))
    assert budget.request.think == ThinkBlock(True, 40_000, ENDING)
    assert budget.text.endswith("assistant\n<think>\n")
    assert budget.starts_inside
    assert model.prepare(HELLO, ChatOptions(thinking=False)).request.think is None
    held = model.prepare(HELLO, ChatOptions(sampling={"grammar": 'root ::= "a"'}))
    assert held.text.endswith("assistant\n<think>\n")
    assert opened(template=None).prepare(HELLO).request.think is None
    assert opened(template=THINKING_2507).prepare(HELLO).request.think == ThinkBlock(True, None, ENDING)


def test_other_wishes_reach_the_engine(opened: Any) -> None:
    wishes = ChatOptions(n_logprobs=2, logit_bias=(TokenBias(3, -100),), reports_progress=True)
    request = opened().prepare(HELLO, wishes).request
    assert (request.n_logprobs, request.logit_bias, request.reports_progress) == (2, (TokenBias(3, -100),), True)


def test_a_budget_ends_the_thinking_and_the_answer_follows(opened: Any) -> None:
    model = opened(["hm", ",", " well", "\n</think>\n\n", "Hi"])
    done = list(model.stream(HELLO, ChatOptions(think_budget=2)))[-1]
    assert (done.reasoning, done.answer) == (f"hm,{EARLY_STOP}", "Hi")
    assert (done.n_reasoning_tokens, done.thinking_end) == (3, "budget")  # the sentence is one token here


def test_answer_now(opened: Any) -> None:
    reply = opened(["<think>", "hm", ", ", "well", "\n</think>\n\n", "Hi"]).stream(HELLO)
    assert next(reply) == ReasoningDelta("hm")
    reply.end_thinking()
    done = list(reply)[-1]
    assert (done.answer, done.thinking_end) == ("Hi", "asked")


def test_progress_of_the_prompt_comes_first(opened: Any) -> None:
    events = list(opened(["Hi"], template=None).stream(HELLO, ChatOptions(reports_progress=True)))
    assert [one.n_done_tokens for one in events if isinstance(one, PromptProgress)] == [2, 5]
    assert isinstance(events[0], PromptProgress)


def test_logprobs_go_with_the_answer_alone(opened: Any) -> None:
    events = list(opened(HYBRID).stream(HELLO, ChatOptions(n_logprobs=1)))
    answers = [one for one in events if isinstance(one, AnswerDelta)]
    assert [[entry.chosen.text for entry in one.logprobs] for one in answers] == [["Hi"], [" there"]]


def test_logprobs_of_text_that_might_have_been_a_tag(opened: Any) -> None:
    events = list(opened(["<", "b", ">"]).stream(HELLO, ChatOptions(n_logprobs=1)))
    answers = [one for one in events if isinstance(one, AnswerDelta)]
    assert [one.text for one in answers] == ["<b", ">"]
    assert [len(one.logprobs) for one in answers] == [2, 1]


def test_reasoning_that_is_cut_off_counts_to_the_last_token(opened: Any) -> None:
    done = list(opened(["<think>", "a", "b", "c"]).stream(HELLO, ChatOptions(max_tokens=3)))[-1]
    assert (done.closed, done.n_reasoning_tokens) == (False, 3)
