"""Saved chats: whole after every turn, private, findable, and safe with two chats at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from qwenctl.core import Message
from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.services import session_store
from qwenctl.services.conversation import Conversation
from qwenctl.services.conversation_file import load_conversation
from qwenctl.services.session import new_session, title_of
from qwenctl.services.session_choice import find_session, latest_session, session_by_id
from qwenctl.services.session_export import as_json, as_markdown, as_openai, openai_messages
from qwenctl.services.session_record import SessionRecord
from qwenctl.services.session_store import SessionQuery, SessionStore
from qwenctl.services.tools.tool_call import ToolCall, calling_message, result_message

TALK = Conversation("Be brief.", thinking=True).add_user("Why is the sky\nblue?").add_assistant("Rayleigh.", "hm")
LONGER = TALK.add_user("And 天空 in Köln?").add_assistant("half \ud83d", partial=True)


@pytest.fixture
def store(tmp_path: Path) -> SessionStore:
    return SessionStore(tmp_path / "data" / "sessions.db")


def saved(store: SessionStore, conversation: Conversation = TALK, model: str = "tiny", now_s: float = 1e9) -> str:
    session = store.save(new_session(f"/models/{model}.gguf", model), conversation, now_s)
    return session.head.session_id


def test_what_is_saved_is_read_again(store: SessionStore) -> None:
    session = store.save(new_session("/m.gguf", "m"), TALK, 1e9)
    session = store.save(session, LONGER, 2e9)
    again = store.read(session.head.session_id)
    assert again == session
    assert again.conversation == LONGER
    assert (again.head.created_s, again.head.updated_s, again.head.n_exchanges) == (1e9, 2e9, 2)
    assert (again.head.title, again.head.model) == ("Why is the sky", "/m.gguf")


def test_only_its_owner_can_read_it(store: SessionStore, tmp_path: Path) -> None:
    former = os.umask(0)
    try:
        saved(store)
    finally:
        os.umask(former)
    files = list((tmp_path / "data").iterdir())
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600]


def test_looking_makes_no_file(store: SessionStore, tmp_path: Path) -> None:
    assert store.heads() == ()
    assert store.with_id("12345678") is None
    with pytest.raises(InvalidRequest, match="no session"):
        store.read("12345678")
    assert list(tmp_path.iterdir()) == []


def test_a_later_turn_does_not_write_the_earlier_ones_again(store: SessionStore, tmp_path: Path) -> None:
    session = store.save(new_session("/m", "m"), TALK)
    with sqlite3.connect(tmp_path / "data" / "sessions.db") as database:
        database.execute("UPDATE exchange SET content = replace(content, 'Rayleigh.', 'touched')")
    database.close()
    store.save(session, LONGER)
    assert store.read(session.head.session_id).conversation.exchanges[0].answer == "touched"


def test_undo_regenerate_and_an_empty_conversation(store: SessionStore) -> None:
    session = store.save(new_session("/m", "m"), LONGER)
    again = LONGER.regenerate().add_assistant("another")
    session = store.save(session, again)
    assert store.read(session.head.session_id).conversation == again
    session = store.save(session, again.undo())
    assert store.read(session.head.session_id).conversation == TALK
    session = store.save(session, TALK.undo())
    assert store.heads() == ()
    session = store.save(session, TALK)  # said anew: the same session
    assert [head.session_id for head in store.heads()] == [session.head.session_id]


def test_two_chats_on_one_session_lose_nothing(store: SessionStore) -> None:
    session_id = saved(store)
    one, two = (SessionRecord(store, store.read(session_id)) for _ in range(2))
    ours, theirs = (TALK.add_user(text).add_assistant(text) for text in ("ours", "theirs"))
    assert one.save(ours) is None
    note = two.save(theirs)
    assert note is not None
    assert session_id in note
    assert two.saved_id is not None
    assert two.saved_id in note
    assert store.read(session_id).conversation == ours
    assert store.read(two.saved_id).conversation == theirs
    assert two.save(theirs.add_user("more").add_assistant("yes")) is None
    assert len(store.heads()) == 2


def test_a_session_that_was_removed_meanwhile_goes_on_as_a_new_one(store: SessionStore) -> None:
    record = SessionRecord(store, store.read(saved(store)))
    store.remove([head.session_id for head in store.heads()])
    assert "removed" in (record.save(LONGER) or "")
    assert store.heads()[0].n_exchanges == 2


def test_names_that_are_no_utf8_are_kept_and_looked_for(store: SessionStore) -> None:
    session = store.save(new_session("/m\udcff.gguf", "m\udcff"), TALK)
    session = store.save(session, LONGER)
    [head] = store.heads(SessionQuery(model="M\udcff"))
    assert (head.model, head.n_exchanges) == ("/m\\udcff.gguf", 2)
    assert store.heads(SessionQuery(("\udcff",))) == ()


def test_a_record_starts_over(store: SessionStore) -> None:
    record = SessionRecord(store, new_session("/m", "m"))
    assert record.save(Conversation("only a prompt")) is None
    assert record.saved_id is None
    record.save(TALK)
    first = record.saved_id
    record.start_over()
    assert record.saved_id is None
    record.save(TALK.cleared().add_user("new").add_assistant("yes"))
    assert {head.session_id for head in store.heads()} == {first, record.saved_id}
    assert len({first, record.saved_id}) == 2


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (SessionQuery(), ["b", "c", "a"]),
        (SessionQuery(limit=1), ["b"]),
        (SessionQuery(("SKY",)), ["c", "a"]),
        (SessionQuery(("ray", "köln")), ["c"]),  # in different exchanges
        (SessionQuery(("KÖLN",)), ["c"]),
        (SessionQuery(("天",)), ["c"]),
        (SessionQuery(("hm",)), []),  # thoughts are not searched
        (SessionQuery(("answer",)), []),  # nor names of fields
        (SessionQuery(('"',)), ["b"]),
        (SessionQuery(("100%",)), ["b"]),
        (SessionQuery(model="BIG"), ["b"]),
        (SessionQuery(since_s=2e9), ["b", "c"]),
        (SessionQuery(until_s=2e9), ["a"]),
        (SessionQuery(("sky",), "tiny", 1e9, 2e9), ["a"]),
    ],
)
def test_queries(store: SessionStore, query: SessionQuery, found: list[str]) -> None:
    quote = Conversation().add_user('He said "hello" 100%').add_assistant("Yes")
    names = {saved(store, now_s=1e9): "a", saved(store, quote, "big", 3e9): "b", saved(store, LONGER, now_s=2e9): "c"}
    assert [names[head.session_id] for head in store.heads(query)] == found


def test_finding_by_id_and_by_words(store: SessionStore) -> None:
    with pytest.raises(InvalidRequest, match="no chat has been saved"):
        latest_session(store)
    old, new = saved(store, now_s=1e9), saved(store, LONGER, now_s=2e9)
    assert latest_session(store).head.session_id == new
    assert find_session(store, old[:4].upper()).head.session_id == old
    assert (find_session(store, "blue sky").head.session_id, find_session(store, "blue sky").n_others) == (new, 1)
    for text in ("green", "", "  ", "*", "[0-f]*"):
        with pytest.raises(InvalidRequest, match="no saved chat"):
            find_session(store, text)
    with pytest.raises(InvalidRequest, match="no session has the ID blue"):
        session_by_id(store, "blue")


def test_an_id_that_begins_several_is_refused(store: SessionStore) -> None:
    for last in "12":
        session = new_session("/m", "m")
        store.save(replace(session, head=replace(session.head, session_id=f"abcd000{last}")), TALK)
    with pytest.raises(InvalidRequest, match="2 sessions have an ID that begins with abcd"):
        find_session(store, "abcd")
    assert find_session(store, "abcd0002").head.session_id == "abcd0002"


def test_removed_text_is_gone_from_the_file(store: SessionStore, tmp_path: Path) -> None:
    marked = TALK.add_user("xyzzy " * 4000).add_assistant("plugh")
    session_id = saved(store, marked)
    path = tmp_path / "data" / "sessions.db"
    assert b"xyzzy" in path.read_bytes()
    store.remove([session_id])
    assert b"xyzzy" not in path.read_bytes()
    assert b"plugh" not in path.read_bytes()


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("\n\n  What   is\tit?\nmore", "What is it?"),
        ("x" * 100, "x" * 71 + "…"),
        ("half \ud83d", "half ?"),
        (" \n", ""),
    ],
)
def test_titles(question: str, title: str) -> None:
    assert title_of(Conversation().add_user(question)) == title


def test_a_damaged_file_is_one_line(store: SessionStore, tmp_path: Path) -> None:
    path = tmp_path / "data" / "sessions.db"
    path.parent.mkdir()
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(QwenctlError, match="cannot be used: file is not a database"):
        store.heads()
    path.unlink()
    session_id = saved(store)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE exchange SET content = '[]'")
    database.close()
    with pytest.raises(QwenctlError, match="damaged: exchange 1"):
        store.read(session_id)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(QwenctlError, match="a newer qwenctl wrote them"):
        store.heads()


def _talk_until_killed(path: Path, ready: multiprocessing.synchronize.Event) -> None:
    store, conversation = SessionStore(path), Conversation()
    session = new_session("/m", "m")
    for number in range(100_000):
        conversation = conversation.add_user(f"question {number}").add_assistant("x" * 5000)
        session = store.save(session, conversation)
        if number == 3:
            ready.set()


def test_a_kill_at_any_moment_leaves_whole_turns(store: SessionStore, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        ready = context.Event()
        child = context.Process(target=_talk_until_killed, args=(tmp_path / "data" / "sessions.db", ready))
        child.start()
        assert ready.wait(20)
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    heads = store.heads()
    assert len(heads) == 5
    for head in heads:
        exchanges = store.read(head.session_id).conversation.exchanges
        assert len(exchanges) >= 4
        assert [(one.user, one.answer) for one in exchanges] == [
            (f"question {n}", "x" * 5000) for n in range(len(exchanges))
        ]


def _talk(path: Path, name: str) -> None:
    store, session, conversation = SessionStore(path), new_session("/m", name), Conversation()
    for number in range(20):
        conversation = conversation.add_user(str(number)).add_assistant(name)
        session = store.save(session, conversation)


def test_many_chats_at_once(store: SessionStore, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    path = tmp_path / "data" / "sessions.db"
    children = [context.Process(target=_talk, args=(path, f"model {n}")) for n in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert [head.n_exchanges for head in store.heads()] == [20] * 4


def _fill_the_disk(path: Path, code: multiprocessing.sharedctypes.Synchronized[int]) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    store, conversation, session = SessionStore(path), Conversation(), new_session("/m", "m")
    try:
        for number in range(1000):
            conversation = conversation.add_user(str(number)).add_assistant("x" * 5000)
            session = store.save(session, conversation)
    except QwenctlError as error:
        code.value = session.head.n_exchanges if "cannot be used" in error.message else -1


def test_a_full_disk_keeps_what_was_saved(store: SessionStore, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    n_saved = context.Value("i", -2)
    child = context.Process(target=_fill_the_disk, args=(tmp_path / "data" / "sessions.db", n_saved))
    child.start()
    child.join()
    assert n_saved.value > 5
    (head,) = store.heads()
    assert head.n_exchanges == len(store.read(head.session_id).conversation.exchanges) == n_saved.value


def test_a_store_that_somebody_else_holds_is_an_error_and_not_a_wait_for_ever(
    store: SessionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = saved(store)
    monkeypatch.setattr(session_store, "_BUSY_S", 0.05)
    waiting = new_session("/m", "m")
    with closing(sqlite3.connect(tmp_path / "data" / "sessions.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(QwenctlError, match="database is locked"):
            store.save(waiting, TALK)
        other.execute("ROLLBACK")
    store.save(waiting, TALK)
    assert {head.session_id for head in store.heads()} == {session_id, waiting.head.session_id}


def test_exports(store: SessionStore, tmp_path: Path) -> None:
    session = store.read(saved(store))
    text = as_markdown(session, reasoning=True)
    assert text.splitlines()[0] == "# Why is the sky"
    assert "## System prompt\n\nBe brief.\n\n## You\n\nWhy is the sky\nblue?\n\n## tiny\n\n> hm\n\nRayleigh.\n" in text
    assert "> hm" not in as_markdown(session)
    path = tmp_path / "talk.json"
    path.write_text(as_json(session))
    assert load_conversation(path) == TALK
    assert json.loads(as_openai(session)) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why is the sky\nblue?"},
        {"role": "assistant", "content": "Rayleigh."},
    ]
    assert json.loads(as_openai(session, reasoning=True))[2]["reasoning_content"] == "hm"
    assert as_markdown(store.read(saved(store, LONGER))).endswith("half ?\n")


def test_calls_of_tools_are_exported_as_openai_has_them() -> None:
    calls = [ToolCall("weather", {"city": "Köln"}), ToolCall("time", {})]
    messages = [
        Message("user", "And the weather?"),
        calling_message("", "hm", calls),
        *(result_message(call, text) for call, text in zip(calls, ("rain", "noon"), strict=True)),
        calling_message("", None, calls[:1]),
        result_message(calls[0], "sun"),
        Message("assistant", "It changes."),
    ]
    written = openai_messages(messages, reasoning=False)
    assert written[1]["tool_calls"][0] == {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Köln"}'},
    }
    assert [one.get("tool_call_id") for one in written] == [None, None, "call_1", "call_2", None, "call_3", None]
    assert [one["role"] for one in written] == ["user", "assistant", "tool", "tool", "assistant", "tool", "assistant"]


def test_calls_of_tools_are_saved_and_shown(store: SessionStore) -> None:
    call = ToolCall("weather", {"city": "Köln"})
    steps = (calling_message("I look.", "hm", [call]), result_message(call, "rain"))
    talk = Conversation().add_user("The weather?").add_assistant("It rains.", steps=steps)
    session = store.read(saved(store, talk))
    assert session.conversation == talk
    text = as_markdown(session)
    assert '"city": "Köln"' in text
    assert "## Tool weather\n\nrain\n\n## tiny\n\nIt rains.\n" in text
    assert [one["role"] for one in json.loads(as_openai(session))] == ["user", "assistant", "tool", "assistant"]
