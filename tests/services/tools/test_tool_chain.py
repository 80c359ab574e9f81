"""Model, call, approval, result, model: the loop with a scripted engine and real functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from qwenctl.core import FinishReason, Message
from qwenctl.errors import InvalidRequest
from qwenctl.services.generation import ChatModel, ChatOptions
from qwenctl.services.reply import AnswerDelta, ReplyDone
from qwenctl.services.tools.approval import NOT_APPROVED, Approval, Permission
from qwenctl.services.tools.python_tools import PythonTools
from qwenctl.services.tools.tool_box import ToolBox
from qwenctl.services.tools.tool_call import ToolCall, result_message
from qwenctl.services.tools.tool_chain import ToolCalled, ToolChain, ToolReturned, ToolUse, begin_answer, call_record
from tests.chat_templates import CHATML, QWEN3
from tests.scripted_engine import ScriptedEngine

FILE = Path(__file__).with_name("weather_tools.py")
QUESTION = [Message("user", "What is twice 4?")]


def call(x: object) -> str:
    """Return a call of the function `later` as the model writes it."""
    return f'<tool_call>\n{{"name": "later", "arguments": {{"x": {x}}}}}\n</tool_call>'


@pytest.fixture(scope="module")
def box() -> Iterator[ToolBox]:
    source = PythonTools(f"{FILE}:later", 10.0)
    with ToolBox([source], source.close) as opened:
        yield opened


Start = Callable[..., tuple[ScriptedEngine, ToolChain]]


@pytest.fixture
def start(box: ToolBox) -> Iterator[Start]:
    """Return what starts a chain on a scripted engine."""
    models: list[ChatModel] = []

    def begin(
        *replies: Sequence[str], approval: Approval | None = None, n_rounds: int = 5, **options: object
    ) -> tuple[ScriptedEngine, ToolChain]:
        engine = ScriptedEngine(replies, chat_template=QWEN3)
        model = ChatModel(engine)
        models.append(model)
        use = ToolUse(box, approval or Approval("all", lambda _: None), n_rounds)
        chain = begin_answer(model, QUESTION, ChatOptions(**options), model.prepare, use)
        assert isinstance(chain, ToolChain)
        return engine, chain

    yield begin
    for model in models:
        model.close()


def done_of(events: Sequence[object]) -> ReplyDone:
    """Return the one end of a chain."""
    ends = [event for event in events if isinstance(event, ReplyDone)]
    assert len(ends) == 1
    assert events[-1] is ends[0]
    return ends[0]


def test_a_call_its_result_and_the_answer(start: Start) -> None:
    first = ["<think>\nI need a tool.\n</think>\n\n", "Let me see.\n", call(4)]
    engine, chain = start(first, ["<think>\nIt is 8.\n</think>\n\n", "It is ", "8."])
    events = list(chain)
    done = done_of(events)
    assert (done.answer, done.reasoning, done.reason) == ("It is 8.", "It is 8.", FinishReason.STOP)
    assert [type(event) for event in events if isinstance(event, ToolCalled | ToolReturned)] == [
        ToolCalled,
        ToolReturned,
    ]
    assert [call_record(one) for one in chain.calls] == [
        {"name": "later", "arguments": {"x": 4}, "result": "8", "is_error": False}
    ]
    second = engine.prompts[1]
    assert '"name": "later"' in engine.prompts[0]  # the model is told of the tool
    assert "<think>\nI need a tool.\n</think>\n\nLet me see.\n<tool_call>" in second  # reasoning stays in the chain
    assert "<tool_response>\n8\n</tool_response>" in second
    assert [message.role for message in chain.steps] == ["assistant", "tool"]
    shown = "".join(event.text for event in events if isinstance(event, AnswerDelta))
    assert shown == "Let me see.It is 8."


def test_several_calls_in_one_reply_and_wrong_ones(start: Start) -> None:
    unknown = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'
    engine, chain = start([call(1), "\n", call('"a"'), "\n", unknown], ["Done."])
    list(chain)
    results = [one.result for one in chain.calls]
    assert [result.is_error for result in results] == [False, True, True]
    assert results[0].text == "2"
    assert "is not of type 'number'" in results[1].text
    assert "there is no tool 'now'" in results[2].text
    assert engine.prompts[1].count("<tool_response>") == 3


def test_half_of_a_surrogate_pair_does_not_end_the_chain(start: Start) -> None:
    unknown = '<tool_call>{"name": "\\ud83d", "arguments": {"\\ud83d": ["\\ud83d\\ude00"]}}</tool_call>'
    engine, chain = start([unknown, call('"\\ud83d"')], ["Done."])
    assert done_of(list(chain)).answer == "Done."
    assert '{"name": "?", "arguments": {"?": ["\U0001f600"]}}' in engine.prompts[1]
    assert result_message(ToolCall("later"), "a\ud83d").content == "a?"


def test_the_rounds_are_limited_and_the_last_answer_comes_without_tools(start: Start) -> None:
    engine, chain = start(["<think>\n\n</think>\n\n", call(1)], [call(2)], [call(3)], n_rounds=2)
    done = done_of(list(chain))
    assert chain.ran_out
    assert len(chain.calls) == 2
    assert done.answer == call(3)  # nothing reads it as a call any more
    assert "# Tools" in engine.prompts[1]
    assert "# Tools" not in engine.prompts[2]


@pytest.mark.parametrize("reply", ["no", None])
def test_a_call_that_is_not_approved(start: Start, reply: Permission | None) -> None:
    approval = Approval("ask", lambda _: reply)
    engine, chain = start([call(1)], ["Then not."], approval=approval)
    assert done_of(list(chain)).answer == "Then not."
    assert NOT_APPROVED in engine.prompts[1]


def test_always_is_remembered_for_the_tool() -> None:
    asked: list[str] = []

    def ask(one: ToolCall) -> Permission:
        asked.append(one.name)
        return "always" if one.name == "a" else "yes"

    approval = Approval("ask", ask)
    assert all(approval.allows(ToolCall(name)) for name in ("a", "a", "b", "b"))
    assert asked == ["a", "b", "b"]
    assert not Approval("none", ask).allows(ToolCall("a"))


def test_cancelled_between_the_replies(start: Start) -> None:
    engine, chain = start([call(1), call(2)], ["never"])
    events = []
    for event in chain:
        events.append(event)
        if isinstance(event, ToolReturned):
            chain.cancel()
    assert done_of(events).reason is FinishReason.CANCELLED
    assert [one.result.text for one in chain.calls] == ["2", NOT_APPROVED]
    assert len(engine.prompts) == 1
    assert [message.role for message in chain.steps] == ["assistant", "tool", "tool"]


def test_an_answer_that_is_cut_calls_nothing(start: Start) -> None:
    _, chain = start([call(1), "more"], max_tokens=1)
    done = done_of(list(chain))
    assert (done.reason, chain.calls) == (FinishReason.LENGTH, [])


def test_a_template_without_calls_is_refused(box: ToolBox) -> None:
    use = ToolUse(box, Approval("all", lambda _: None), 1)
    with (
        closing(ChatModel(ScriptedEngine(chat_template=CHATML))) as model,
        pytest.raises(InvalidRequest, match="calls"),
    ):
        begin_answer(model, QUESTION, ChatOptions(), model.prepare, use)
