"""A chat whose context fills: warned of in time, then refused, cut or condensed, and always said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from qwenctl.cli.chat.plain_screen import PlainScreen
from qwenctl.cli.chat.session import ChatSession
from qwenctl.cli.output import Output
from qwenctl.services.conversation import Conversation
from qwenctl.services.generation import ChatModel, ChatOptions
from tests.chat_templates import CHATML
from tests.scripted_engine import Script, ScriptedEngine


class RecordingScreen(PlainScreen):
    """Keeps what it is told to show beside the answers."""

    def __init__(self) -> None:
        super().__init__(Output(quiet=True), interactive=False)
        self.notes: list[str] = []
        self.errors: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def error(self, message: str, hint: str | None = None) -> None:
        self.errors.append(f"{message} ({hint})")


def answer(prompt: str) -> Script:
    return ["a summary"] if "Summarise" in prompt else ["an answer"]


@pytest.fixture
def chat() -> Iterator[Any]:
    """Return `chat(overflow)`: a session with a context of 1,000 characters, its screen and its engine."""
    models = []

    def make(overflow: Any) -> tuple[ChatSession, RecordingScreen, ScriptedEngine]:
        screen, engine = RecordingScreen(), ScriptedEngine(answer=answer, chat_template=CHATML, n_ctx=1000)
        models.append(ChatModel(engine))
        return ChatSession(models[-1], screen, ChatOptions(overflow=overflow), Conversation()), screen, engine

    yield make
    for model in models:
        model.close()


QUESTION = "x" * 150  # with the template's frame and the answer about 230 characters a turn


def test_a_context_that_fills_is_warned_of_once_at_each_level(chat: Any) -> None:
    session, screen, _ = chat("refuse")
    for n_conversations in (1, 2):
        while session.meter.level == "fine":
            assert len(screen.notes) == 2 * (n_conversations - 1)
            session.ask("y" * 30)
        while session.meter.level == "high":
            assert len(screen.notes) == 2 * n_conversations - 1
            session.ask("z")
        session.ask("?")
        assert len(screen.notes) == 2 * n_conversations
        session.change(session.conversation.cleared())
    assert screen.notes[0].startswith("the conversation takes 8")
    assert "is refused; /clear begins anew" in screen.notes[0]
    assert screen.notes[1].startswith("the conversation takes 9")


def test_refused_by_default(chat: Any) -> None:
    session, screen, engine = chat("refuse")
    for _ in range(6):
        session.ask(QUESTION)
    assert "but the context holds 1000" in screen.errors[0]
    assert "--overflow" in screen.errors[0]
    assert session.n_failed == len(screen.errors) > 0
    assert len(engine.history) == 6 - session.n_failed


def test_cut_where_that_was_asked_for(chat: Any) -> None:
    session, screen, engine = chat("truncate-middle")
    for _ in range(6):
        session.ask(QUESTION)
    assert screen.errors == []
    assert any("were left out" in note or "was left out" in note for note in screen.notes)
    assert all(len(prompt) < 1000 for prompt in engine.prompts)
    assert len(session.conversation.exchanges) == 6  # which the conversation itself never loses


def test_condensed_where_that_was_asked_for(chat: Any) -> None:
    session, screen, engine = chat("summarise")
    for number in range(6):
        session.ask(f"{number}" * 150)
    assert screen.errors == []
    assert any("the model summarises the earlier turns first" in note for note in screen.notes)
    assert any("its own summary of" in note for note in screen.notes)
    assert "What has been said before, in short:\na summary" in engine.prompts[-1]
    assert "5" * 150 in engine.prompts[-1]
    assert "0" * 150 not in engine.prompts[-1]
    assert len(session.conversation.exchanges) == 6


def test_a_summary_that_is_stopped_keeps_the_chat_as_it_was(chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session, screen, _ = chat("summarise")
    for _ in range(3):
        session.ask(QUESTION)
    monkeypatch.setattr(screen, "note", lambda text: session._cancel() if "summarises" in text else None)
    before = session.conversation
    for _ in range(3):
        if not screen.errors:
            before = session.conversation
            session.ask(QUESTION)
    assert "stopped while the text was being summarised" in screen.errors[0]
    assert session.conversation == before
