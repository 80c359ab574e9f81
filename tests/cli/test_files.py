"""Files before a question: in `run` and `chat`, by path, by pattern, and by what a shell makes of it."""

from __future__ import annotations

import json

import click
import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from qwenctl.cli.chat.line_completion import LineCompleter
from qwenctl.cli.chat.slash_commands import COMPLETIONS
from qwenctl.cli.file_option import FileOption
from qwenctl.cli.main import cli

pytestmark = pytest.mark.usefixtures("shared_cache")


@pytest.fixture
def says_word(tmp_path):
    """Return options that make any model answer with "word"."""
    path = tmp_path / "word.gbnf"
    path.write_text('root ::= "word"')
    return ["--grammar", str(path), "--threads", "1", "--temp", "0", "--no-think"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    place = tmp_path / "place"
    place.mkdir()
    (place / "a.py").write_text("a = 1\n")
    (place / "b.py").write_text("b = 2\n")
    (place / "x.png").write_bytes(b"\0")
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def asked(qwenctl):
    """Return `asked()`: the questions of the latest chat, as the model got them."""
    return lambda: [
        one["user"] for one in json.loads(qwenctl("sessions", "show", _latest(qwenctl), "--json").stdout)["exchanges"]
    ]


def _latest(qwenctl):
    return json.loads(qwenctl("sessions", "ls", "-n", "1", "--json").stdout)[0]["id"]


@pytest.mark.parametrize(
    ("words", "spread"),
    [
        (["-f", "a.py", "b.py", "Why?"], ["-f", "a.py", "-f", "b.py", "Why?"]),
        (["m", "-f", "a.py", "Why?", "b.py"], ["m", "-f", "a.py", "Why?", "b.py"]),
        (["--file", "none", "a.py", "--json", "b.py"], ["--file", "none", "-f", "a.py", "--json", "b.py"]),
        (["-f", "a.py", "-f", "b.py"], ["-f", "a.py", "-f", "b.py"]),
        (["-f", "a.py", "m.gguf", "Why?"], ["-f", "a.py", "m.gguf", "Why?"]),
        (["-f", "a.py", "--", "b.py"], ["-f", "a.py", "--", "b.py"]),
        (["a.py", "-f"], ["a.py", "-f"]),
        (["-f", "a.py", "Why? " * 60], ["-f", "a.py", "Why? " * 60]),
    ],
)
def test_what_a_shell_makes_of_a_pattern(folder, words, spread):
    (folder / "m.gguf").write_bytes(b"GGUF")
    (option,) = [one for one in cli.get_command(click.Context(cli), "run").params if isinstance(one, FileOption)]
    assert option.spread(words) == spread


def test_files_stand_before_the_question(qwenctl, demo_gguf, says_word, folder):
    ran = qwenctl("run", demo_gguf, "Add them", "-f", "*.py", *says_word)
    assert (ran.code, ran.stdout) == (0, "word\n")
    n_tokens = ran.stderr.partition("2 files, ")[2].split()[0]
    assert int(n_tokens) > 10
    assert qwenctl("run", demo_gguf, "-f", "a.py", "b.py", *says_word).stderr.startswith("2 files, ")  # no question


def test_files_that_are_none_are_refused_by_name(qwenctl, demo_gguf, folder):
    for words, message in (
        (["-f", "x.png"], "x.png is not text"),
        (["-f", "none.txt"], "none.txt: No such file"),
        (["-f", "*.rs"], "no file matches *.rs"),
    ):
        ran = qwenctl("run", demo_gguf, "Why?", *words)
        assert (ran.code, ran.stdout, message in ran.stderr) == (2, "", True), ran.stderr


def test_in_a_chat(qwenctl, demo_gguf, says_word, folder, asked):
    script = "/file *.py\nAdd them\nWhat is in @a.py?\nMail me@a.py @nobody\n/read none.py\n/file\nBad @x.png\n"
    ran = qwenctl("chat", demo_gguf, *says_word, stdin=script)
    assert (ran.code, ran.stdout) == (1, "word\n" * 3)
    a, b = "File: a.py\n```py\na = 1\n```", "File: b.py\n```py\nb = 2\n```"
    assert asked() == [f"{a}\n\n{b}\n\nAdd them", f"{a}\n\nWhat is in @a.py?", "Mail me@a.py @nobody"]
    for text in (
        "2 files, ",
        ", before the next question",
        "none.py: No such file",
        "/file needs",
        "x.png is not text",
    ):
        assert text in ran.stderr
    assert "Add them" in qwenctl("sessions", "ls").stdout  # not the file's name


@pytest.mark.parametrize("name", ["x" * 300, "~no-such-user/x"])
def test_names_that_no_file_can_have_end_no_chat(qwenctl, demo_gguf, says_word, folder, name):
    script = f"What is @{name}?\n/file {name}\n/file {name}*\n/load {name}\n/save {name}\n/model {name}\nStill there?\n"
    ran = qwenctl("chat", demo_gguf, *says_word, stdin=script)
    assert (ran.code, ran.stdout) == (0, "word\n" * 2), ran.stderr
    assert ran.stderr.count("error: ") == 5
    for words in (["-f", name], ["--template", name], ["--system", f"@{name}"]):
        ran = qwenctl("run", demo_gguf, "Why?", *words)
        assert (ran.code, ran.stdout) == (2, ""), ran.stderr


def test_on_the_command_line_of_a_chat(qwenctl, demo_gguf, says_word, folder, asked):
    qwenctl("chat", demo_gguf, "-f", "a.py", *says_word, stdin="One\nTwo\n")
    assert asked() == ["File: a.py\n```py\na = 1\n```\n\nOne", "Two"]


def test_a_file_that_does_not_fit_is_not_cut(qwenctl, demo_gguf, says_word, folder):
    (folder / "long.txt").write_text("word " * 3000)
    ran = qwenctl("run", demo_gguf, "Why?", "-f", "long.txt", "--ctx", "512", *says_word)
    assert ran.code == 1
    assert "but the context holds 512" in ran.stderr


@pytest.mark.parametrize(
    ("before", "completed"),
    [
        ("What is in @a", [".py"]),
        ("@", ["a.py", "b.py", "x.png"]),
        ("two\nlines @b", [".py"]),
        ("@a and", []),
        ("@a ", []),
        ("me@a", []),
        ("", []),
        ("/file a", [".py"]),
    ],
)
@pytest.mark.usefixtures("folder")
def test_tab_completes_files_in_a_question(before, completed):
    completer = LineCompleter(COMPLETIONS)
    found = completer.get_completions(Document(before), CompleteEvent(completion_requested=True))
    assert [one.text for one in found] == completed
