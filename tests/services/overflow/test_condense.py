"""Long prompts summarised by the model itself, with a scripted one: a character is a token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from qwenctl.core import Message
from qwenctl.errors import GenerationFailed, PromptTooLong
from qwenctl.services.generation import ChatModel, ChatOptions
from qwenctl.services.overflow.condense import Condenser, CondenseStep
from tests.chat_templates import CHATML
from tests.scripted_engine import Script, ScriptedEngine

OPTIONS = ChatOptions(overflow="summarise")
LINES = "".join(f"line {n} of the file\n" for n in range(500))  # 10,890 characters


class Summariser:
    """Answers each request for a summary with "S1", "S2" …; everything else with "answer"."""

    def __init__(self, n_ctx: int = 2000, script: Script | None = None) -> None:
        self.steps: list[CondenseStep] = []
        self.n_summaries = 0
        self.script = script
        self.engine = ScriptedEngine(answer=self.answer, chat_template=CHATML, n_ctx=n_ctx)
        self.model = ChatModel(self.engine)
        self.condenser = Condenser(self.model, self.steps.append)

    def answer(self, prompt: str) -> Script:
        if "Summarise" not in prompt:
            return ["answer"]
        self.n_summaries += 1
        return [f"S{self.n_summaries}"] if self.script is None else self.script


@pytest.fixture
def make() -> Iterator[Any]:
    made: list[Summariser] = []

    def new(**kwargs: Any) -> Summariser:
        made.append(Summariser(**kwargs))
        return made[-1]

    yield new
    for one in made:
        one.model.close()


def text_of(messages: Sequence[Message]) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in messages)


def test_what_fits_is_left_alone(make: Any) -> None:
    one = make()
    messages = [Message("user", "x" * 1000)]
    assert one.condenser.fitted(messages, OPTIONS) == (messages, None)
    assert one.engine.history == []


def test_a_document_is_summarised_in_parts_with_the_question_in_mind(make: Any) -> None:
    one = make()
    messages = [Message("system", "Be kind."), Message("user", LINES + "\n\nWhich line is last?")]
    fitting, summary = one.condenser.fitted(messages, OPTIONS)
    assert fitting[0] == messages[0]
    assert fitting[1].content.startswith("Notes on a text")
    assert fitting[1].content.endswith(
        "S1\n\nS2\n\n" + "\n\n".join(f"S{n}" for n in range(3, one.n_summaries + 1)) + "\n\nWhich line is last?"
    )
    assert summary is not None
    assert summary.n_parts == one.n_summaries == len(one.steps) > 5
    assert all("Which line is last?" in prompt for prompt in one.engine.prompts)
    shown = "".join(prompt.split("user\n", 1)[1].split("\n\nSummarise", 1)[0] + "\n" for prompt in one.engine.prompts)
    assert "".join(shown.split()) == "".join(LINES.split())  # every line went into one part
    assert "in mind" not in summary.sentence
    assert "its own summary of the text of the last message" in summary.sentence
    assert summary.values["kind"] == "summarise"
    assert one.steps[0].sentence.startswith("the prompt is too long (")


def test_summaries_that_are_too_long_together_are_summarised_again(make: Any) -> None:
    one = make(n_ctx=1000, script=["x" * 100] + ["y"] * 60)
    fitting, summary = one.condenser.fitted([Message("user", LINES * 2 + "\n\nWhy?")], OPTIONS)
    assert [step.part for step in one.steps].count(1) > 1  # rounds
    assert len(text_of(fitting)) < 1000
    assert summary is not None
    assert summary.n_tokens_after < 1000


def test_earlier_turns_are_condensed_and_the_latest_stay(make: Any) -> None:
    one = make()
    turns = [
        message for n in range(9) for message in (Message("user", f"q{n}" * 80), Message("assistant", f"a{n}" * 50))
    ]
    messages = [Message("system", "Be kind."), *turns, Message("user", "last")]
    fitting, summary = one.condenser.fitted(messages, OPTIONS)
    assert summary is not None
    assert 0 < summary.n_condensed_turns < 9
    assert not summary.of_message
    assert fitting[0].role == "system"
    assert fitting[0].content.startswith("Be kind.\n\nWhat has been said before, in short:\nS")
    assert fitting[1:] == messages[1 + 2 * summary.n_condensed_turns :]


def test_a_chat_that_goes_on_is_not_summarised_with_every_turn(make: Any) -> None:
    one = make(n_ctx=4000)
    messages = [message for n in range(14) for message in (Message("user", "q" * 200), Message("assistant", "a" * 100))]
    n_requests = []
    for n in range(8):
        messages.append(Message("user", f"question {n} " * 10))
        fitting, summary = one.condenser.fitted(messages, OPTIONS)
        assert summary is not None
        assert len(text_of(fitting)) < 4000
        n_requests.append(one.n_summaries)
        messages.append(Message("assistant", "a" * 100))
    assert n_requests[0] == n_requests[4]
    assert "S" in one.condenser.fitted(messages, OPTIONS)[0][0].content


def test_what_was_summarised_before_goes_into_the_next_summary(make: Any) -> None:
    one = make()
    messages = [
        message for n in range(9) for message in (Message("user", f"q{n}" * 80), Message("assistant", "a" * 99))
    ]
    one.condenser.fitted([*messages, Message("user", "one")], OPTIONS)
    before = one.n_summaries
    more = [message for n in range(9) for message in (Message("user", f"r{n}" * 80), Message("assistant", "b" * 99))]
    one.condenser.fitted([*messages, *more, Message("user", "two")], OPTIONS)
    asked = one.engine.prompts[before]
    assert f"S{before}" in asked  # of the turns before, not these turns again
    assert "q0" not in asked


def test_another_conversation_is_not_taken_for_the_remembered_one(make: Any) -> None:
    one = make()
    first = [message for n in range(9) for message in (Message("user", f"q{n}" * 80), Message("assistant", "a" * 99))]
    one.condenser.fitted([*first, Message("user", "one")], OPTIONS)
    before = one.n_summaries
    other = [message for n in range(9) for message in (Message("user", f"x{n}" * 80), Message("assistant", "a" * 99))]
    one.condenser.fitted([*other, Message("user", "one")], OPTIONS)
    assert one.n_summaries > before
    assert "x0" in one.engine.prompts[before]


def test_the_prompt_says_what_was_done(make: Any) -> None:
    one = make()
    prepared = one.condenser.prepare([Message("user", LINES)], OPTIONS)
    assert prepared.truncated is not None
    assert prepared.truncated.sentence == prepared.notes[-1]
    assert prepared.truncated.n_tokens_after == len(prepared.request.prompt_tokens)


@pytest.mark.parametrize("overflow", ["refuse", "truncate-middle"])
def test_nothing_is_summarised_unless_it_is_asked_for(make: Any, overflow: Any) -> None:
    one = make()
    options = ChatOptions(overflow=overflow)
    if overflow == "refuse":
        with pytest.raises(PromptTooLong):
            one.condenser.prepare([Message("user", LINES)], options)
    else:
        assert one.condenser.prepare([Message("user", LINES)], options).truncated.values["kind"] == "truncate-middle"
    assert one.engine.history == []


def test_what_cannot_be_summarised_is_refused(make: Any) -> None:
    one = make()
    with pytest.raises(PromptTooLong):
        one.condenser.fitted([Message("system", "x" * 3000), Message("user", "Hello")], OPTIONS)
    with pytest.raises(PromptTooLong):
        one.condenser.fitted([Message("system", "x" * 3000)], OPTIONS)


def test_a_model_that_says_nothing_is_an_error_with_a_way_out(make: Any) -> None:
    one = make(script=[" "])
    with pytest.raises(GenerationFailed, match="is empty") as caught:
        one.condenser.fitted([Message("user", LINES)], OPTIONS)
    assert "truncate-middle" in (caught.value.hint or "")


def test_a_summary_that_is_stopped_is_no_summary(make: Any) -> None:
    one = make()
    condenser = Condenser(one.model, lambda step: condenser.cancel() if step.part == 3 else None)
    with pytest.raises(GenerationFailed, match="stopped"):
        condenser.fitted([Message("user", LINES)], OPTIONS)
    assert one.n_summaries == 2
    assert not one.engine.has_work
