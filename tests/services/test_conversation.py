from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qwenctl.core import Message
from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.services.conversation import Conversation, Exchange
from qwenctl.services.conversation_file import load_conversation, save_conversation

TALK = (
    Conversation(system="Be brief.", thinking=True)
    .add_user("One?")
    .add_assistant("Yes \ud83d", "hm")
    .add_user("Zwei?\n👋")
    .add_assistant("Ja", partial=True)
)


def test_messages() -> None:
    assert TALK.messages == (
        Message("system", "Be brief."),
        Message("user", "One?"),
        Message("assistant", "Yes \ud83d", "hm"),
        Message("user", "Zwei?\n👋"),
        Message("assistant", "Ja"),
    )
    assert TALK.exchanges[-1].partial
    assert TALK.with_system("").messages[0].role == "user"


def test_undo_and_regenerate() -> None:
    again = TALK.regenerate()
    assert again.waiting
    assert again.exchanges[-1] == Exchange("Zwei?\n👋")
    assert again.add_assistant("Ja").exchanges[-1] == Exchange("Zwei?\n👋", "Ja")
    assert len(TALK.undo().exchanges) == len(again.undo().exchanges) == 1
    assert TALK.cleared() == Conversation("Be brief.", True)
    with pytest.raises(InvalidRequest, match="undone"):
        TALK.cleared().undo()
    for conversation in (again, TALK.cleared()):
        with pytest.raises(InvalidRequest, match="anew"):
            conversation.regenerate()


def test_questions_and_answers_take_turns() -> None:
    with pytest.raises(ValueError, match="no question waits"):
        TALK.add_assistant("again")
    with pytest.raises(ValueError, match="only the last"):
        TALK.add_user("a").add_user("b")


def test_round_trip_through_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    for conversation in (TALK, Conversation(), TALK.regenerate().with_thinking(None)):
        save_conversation(conversation, path)
        assert load_conversation(path) == conversation
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["talk.json"]


def test_other_files_are_not_overwritten(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("precious")
    with pytest.raises(InvalidRequest, match="is not a saved conversation"):
        save_conversation(TALK, notes)
    assert notes.read_text() == "precious"
    with pytest.raises(QwenctlError, match="cannot write"):
        save_conversation(TALK, tmp_path / "missing" / "talk.json")


def exchanges(**wrong: Any) -> dict[str, Any]:
    return {"exchanges": [{"user": "a", "answer": "b", "reasoning": None, "partial": False} | wrong]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "other"}, "is not a saved conversation"),
        ({"version": 2}, "has version 2, this program reads 1"),
        ({"system": 1}, "wrong type"),
        ({"thinking": "yes"}, "wrong type"),
        ({"exchanges": {}}, "wrong type"),
        ({"exchanges": ["a"]}, "exchange 1 has the wrong form"),
        (exchanges(user=None), "exchange 1"),
        (exchanges(partial=1), "exchange 1"),
        (exchanges(answer=None, partial=True), "damaged"),
        ({"exchanges": exchanges(answer=None)["exchanges"] * 2}, "only the last"),
    ],
)
def test_bad_files_give_one_line(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = tmp_path / "talk.json"
    save_conversation(TALK, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidRequest, match=reason) as failure:
        load_conversation(path)
    assert "\n" not in failure.value.message


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff\xfe", b"{}", b'{"format": '])
def test_files_that_are_no_conversations(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "talk.json"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match="is not a saved conversation"):
        load_conversation(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file"):
        load_conversation(tmp_path / "missing")
    with pytest.raises(InvalidRequest, match="Is a directory"):
        load_conversation(tmp_path)
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(InvalidRequest, match="larger than 64 MiB"):
        load_conversation(huge)
