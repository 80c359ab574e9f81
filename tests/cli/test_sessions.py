"""Chats are saved by themselves, and gone on with; `qwenctl sessions` looks after them."""

from __future__ import annotations

import json
import shutil
import sys
import time

import pytest

from qwenctl.services.conversation import Conversation
from qwenctl.services.session import new_session
from qwenctl.services.session_store import SessionStore
from tests.cli.terminal import Terminal

pytestmark = pytest.mark.usefixtures("shared_cache")


@pytest.fixture
def says_word(tmp_path):
    """Return options that make any model answer with "word"."""
    path = tmp_path / "word.gbnf"
    path.write_text('root ::= "word"')
    return ["--grammar", str(path), "--threads", "1", "--temp", "0"]


@pytest.fixture
def sessions(qwenctl):
    """Return `sessions(*words)`: what `qwenctl sessions ls --json` says."""
    return lambda *words: json.loads(qwenctl("sessions", "ls", "--json", *words).stdout)


@pytest.fixture
def store(home):
    return SessionStore(home / "data" / "qwenctl" / "sessions.db")


def keep(store, question="Why is the sky blue?", model="/no/such/model.gguf", now_s=None):
    talk = Conversation("Be brief.").add_user(question).add_assistant("Rayleigh.", "hm")
    return store.save(new_session(model, "tiny"), talk, now_s).head.session_id


def test_a_chat_goes_on_where_it_was(qwenctl, demo_gguf, says_word, sessions):
    qwenctl("chat", demo_gguf, "--no-think", "--system", "Be brief.", *says_word, stdin="Hello\nMore\n")
    (first,) = sessions()
    assert (first["title"], first["n_exchanges"], first["model"]) == ("Hello", 2, str(demo_gguf))
    ran = qwenctl("chat", "--continue", *says_word, stdin="And now?\n/system\n")
    assert (ran.code, ran.stdout) == (0, "word\n")
    assert f"session {first['id']}, 2 exchanges: Hello" in ran.stderr
    assert "system prompt: Be brief." in ran.stderr
    (again,) = sessions()
    assert (again["id"], again["n_exchanges"]) == (first["id"], 3)
    shown = json.loads(qwenctl("sessions", "show", first["id"], "--json").stdout)
    assert [one["user"] for one in shown["exchanges"]] == ["Hello", "More", "And now?"]
    assert (shown["thinking"], shown["system"]) == (False, "Be brief.")


def test_options_win_over_what_was_saved(qwenctl, demo_gguf, says_word, sessions, tmp_path):
    other = shutil.copy(demo_gguf, tmp_path / "other.gguf")
    qwenctl("chat", demo_gguf, "--no-think", "--system", "old", *says_word, stdin="Hello\n")
    ran = qwenctl("chat", other, "--resume", "hell", "--think", "--system", "new", *says_word, stdin="More\n")
    assert "answered in this session before; now it is" in ran.stderr
    (one,) = sessions()
    assert one["model"] == str(other)
    shown = json.loads(qwenctl("sessions", "show", one["id"], "--json").stdout)
    assert (shown["thinking"], shown["system"], bool(shown["exchanges"][1]["reasoning"])) == (True, "new", True)


def test_clear_and_undo_and_load(qwenctl, demo_gguf, says_word, sessions, tmp_path):
    path = tmp_path / "talk.json"
    script = f"One\n/save {path}\n/clear\nTwo\nThree\n/undo\n/load {path}\nFour\n"
    qwenctl("chat", demo_gguf, "--no-think", *says_word, stdin=script)
    assert [(one["title"], one["n_exchanges"]) for one in sessions()] == [("One", 2), ("Two", 1), ("One", 1)]


def test_another_chat_is_gone_on_with_from_within(qwenctl, demo_gguf, says_word, store, sessions):
    session_id = keep(store, "An older question", str(demo_gguf))
    script = f"One\n/sessions older\n/resume {session_id[:5]}\nMore\n/resume\n/resume nothing\n/system\n"
    ran = qwenctl("chat", demo_gguf, "--no-think", *says_word, stdin=script)
    assert ran.stdout == "word\nword\n"
    assert [(one["title"], one["n_exchanges"]) for one in sessions()] == [("An older question", 2), ("One", 1)]
    for text in (
        "  1  An older question",
        f"session {session_id}: An older question",
        "tiny answered in this session before",
        "> An older question",
        "/resume needs an ID or words",
        "no saved chat has the ID or the words 'nothing'",
        "system prompt: Be brief.",
    ):
        assert text in ran.stderr
    ran = qwenctl("chat", demo_gguf, "--no-session", "--no-think", *says_word, stdin="/sessions\n")
    assert "saved chats are out of reach here" in ran.stderr


def test_another_model_after_a_new_beginning_leaves_the_chat_before_it_alone(
    qwenctl, demo_gguf, says_word, store, sessions, tmp_path
):
    session_id = keep(store, "An older question", str(demo_gguf))
    other = shutil.copy(demo_gguf, tmp_path / "other.gguf")
    script = f"/clear\n/model {other}\nOne\n/model {demo_gguf}\nTwo\n"
    ran = qwenctl("chat", "-r", session_id, "--no-think", *says_word, stdin=script)
    assert ran.stdout == "word\nword\n"
    assert [(one["title"], one["n_exchanges"]) for one in sessions()] == [("One", 2), ("An older question", 1)]


@pytest.mark.parametrize(("words", "environment"), [(["--no-session"], {}), ([], {"QWENCTL_SESSIONS": "off"})])
def test_one_switch_keeps_nothing(qwenctl, demo_gguf, says_word, home, monkeypatch, words, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    ran = qwenctl("chat", demo_gguf, "--no-think", *words, *says_word, stdin="Hello\n")
    assert ran.stdout == "word\n"
    assert not list((home / "data").rglob("sessions*"))


def test_the_command_line_wins_over_the_environment(qwenctl, demo_gguf, says_word, sessions, monkeypatch):
    monkeypatch.setenv("QWENCTL_SESSIONS", "off")
    qwenctl("chat", demo_gguf, "--no-think", "--session", *says_word, stdin="Hello\n")
    assert len(sessions()) == 1


def test_a_session_may_be_read_and_not_written(qwenctl, demo_gguf, says_word, store, sessions):
    session_id = keep(store, model=str(demo_gguf))
    ran = qwenctl("chat", "-r", session_id, "--no-session", "--no-think", *says_word, stdin="More\n")
    assert ran.stdout == "word\n"
    assert [one["n_exchanges"] for one in sessions()] == [1]


def test_a_full_disk_does_not_end_the_chat(qwenctl, demo_gguf, says_word, home):
    (home / "data").write_text("no folder")
    ran = qwenctl("chat", demo_gguf, "--no-think", *says_word, stdin="Hello\nMore\n")
    assert (ran.code, ran.stdout) == (0, "word\nword\n")
    assert ran.stderr.count("cannot be used: Not a directory") == 1


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--continue"], "no chat has been saved yet", "qwenctl chat begins one"),
        (["--resume", "xyz"], "no saved chat has the ID or the words 'xyz'", "qwenctl sessions ls"),
        (["--resume"], "--resume needs an ID or words", "qwenctl sessions ls"),
        (["--continue", "--resume", "x"], "exclude each other", "leave one"),
    ],
)
def test_sessions_that_are_not_there(qwenctl, words, message, hint):
    ran = qwenctl("chat", *words)
    assert (ran.code, ran.stdout) == (2, "")
    assert message in ran.stderr
    assert hint in ran.stderr


def test_a_model_that_is_gone_is_named(qwenctl, store):
    session_id = keep(store)
    ran = qwenctl("chat", "--continue", stdin="x\n")
    assert ran.code == 1
    assert "/no/such/model.gguf, the model of session" in ran.stderr
    assert f"qwenctl chat MODEL --resume {session_id}" in ran.stderr


def test_listing(qwenctl, store, sessions):
    assert sessions() == []
    assert "no chat is saved yet" in qwenctl("sessions", "ls").stderr
    old = keep(store, "Old question", now_s=time.time() - 10 * 86400)
    new = keep(store, "New question")
    assert [one["id"] for one in sessions()] == [new, old]
    assert [one["id"] for one in sessions("--search", "QUESTION old")] == [old]
    assert [one["id"] for one in sessions("--since", "7d")] == [new]
    assert [one["id"] for one in sessions("--until", "7d", "--model", "TINY")] == [old]
    assert [one["id"] for one in sessions("-n", "1", "--since", "2001-01-01")] == [new]
    assert qwenctl("sessions").stdout == qwenctl("sessions", "ls").stdout
    lines = qwenctl("sessions").stdout.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith(new)
    assert lines[1].endswith("1  tiny   New question")
    assert "no such chat" in qwenctl("sessions", "ls", "--search", "green").stderr
    ran = qwenctl("sessions", "ls", "--since", "yesterday")
    assert ran.code == 2
    assert "write 2026-11-26, or 12h, 7d or 2w for ago" in ran.stderr


def test_showing_and_exporting(qwenctl, store, tmp_path):
    session_id = keep(store)
    shown = qwenctl("sessions", "show", "sky")
    assert "Rayleigh." in shown.stdout
    assert "> hm" not in shown.stdout
    assert "> hm" in qwenctl("sessions", "show", session_id[:6], "--reasoning").stdout
    assert qwenctl("sessions", "export", session_id).stdout == shown.stdout
    target = tmp_path / "talk.json"
    ran = qwenctl("sessions", "export", session_id, "--format", "json", "-o", target)
    assert (ran.code, ran.stdout) == (0, "")
    assert json.loads(target.read_text())["exchanges"][0]["answer"] == "Rayleigh."
    assert target.stat().st_mode & 0o777 == 0o600
    ran = qwenctl("sessions", "export", session_id, "-o", target)
    assert (ran.code, "is there already" in ran.stderr) == (2, True)
    messages = json.loads(qwenctl("sessions", "export", session_id, "--format", "openai").stdout)
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]


def test_removing(qwenctl, store, sessions):
    ids = [keep(store, f"Question {n}", now_s=time.time() - n * 86400) for n in range(4)]
    for words in ([], [ids[0], "--all"], ["--all", "--older-than", "3"]):
        assert qwenctl("sessions", "rm", *words).code == 2
    ran = qwenctl("sessions", "rm", "Question")
    assert (ran.code, "no session has the ID Question" in ran.stderr) == (2, True)
    assert ids[3] in qwenctl("sessions", "rm", "--older-than", "2", "--dry-run").stdout
    assert len(sessions()) == 4
    removed = json.loads(qwenctl("sessions", "rm", "--older-than", "2", "--json").stdout)
    assert {one["id"] for one in removed["removed"]} == set(ids[2:])
    assert qwenctl("sessions", "rm", ids[0], ids[0][:5]).stdout == f"{ids[0]}  Question 0\n"
    assert [one["id"] for one in sessions()] == [ids[1]]
    assert "1 chat removed" in qwenctl("sessions", "rm", "--all").stderr
    assert sessions() == []


def test_on_a_terminal_one_is_chosen_and_goes_on(demo_gguf, says_word, store, sessions):
    keep(store, "An older question", str(demo_gguf), time.time() - 3600)
    keep(store, "The latest question", str(demo_gguf))
    command = [sys.executable, "-m", "qwenctl", "chat", "--resume", "--no-think", *says_word]
    with Terminal(command, columns=100) as terminal:
        terminal.wait_for("Number [1]:")
        terminal.send("2\r")
        terminal.wait_for("> An older question")
        terminal.wait_for("Rayleigh.")
        terminal.wait_for("tokens of context")
        terminal.send("Go on\r")
        terminal.wait_for("word")
        terminal.wait_for("%)")
        terminal.send("\x04")
        terminal.wait_for("saved; go on with qwenctl chat --resume ")
        assert terminal.wait_exit() == 0
    assert next((one["title"], one["n_exchanges"]) for one in sessions()) == ("An older question", 2)


def test_a_title_is_cut_to_the_terminal(store):
    keep(store, "How would you explain the scattering of light to somebody who is twelve years old?")
    with Terminal([sys.executable, "-m", "qwenctl", "sessions"], columns=60) as terminal:
        assert terminal.wait_exit() == 0
        lines = terminal.text.splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("…")


def test_a_chat_that_is_killed_keeps_its_turns(qwenctl, demo_gguf, says_word, sessions):
    command = [sys.executable, "-m", "qwenctl", "chat", str(demo_gguf), "--no-think", *says_word]
    with Terminal(command, columns=100) as terminal:
        terminal.wait_for("tokens of context")
        terminal.send("The first question\r")
        terminal.wait_for("%)")
        terminal.send("The second")
        terminal.wait_for("> The second")
    # leaving the terminal kills the chat
    assert [(one["title"], one["n_exchanges"]) for one in sessions()] == [("The first question", 1)]
    ran = qwenctl("chat", "--continue", *says_word, stdin="The second\n")
    assert (ran.code, ran.stdout) == (0, "word\n")
    assert [one["n_exchanges"] for one in sessions()] == [2]
