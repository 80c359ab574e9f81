"""`qwenctl chat` without a terminal: each line is a turn, the answers alone go to standard output."""

from __future__ import annotations

import json
import re
import signal
import sys

import pytest

from qwenctl.cli.main import run_command_line
from tests.cli.terminal import Terminal

pytestmark = pytest.mark.usefixtures("shared_cache")
ONE_THREAD = ["--threads", "1"]


@pytest.fixture
def says_word(tmp_path):
    """Return options that make any model answer with "word"."""
    path = tmp_path / "word.gbnf"
    path.write_text('root ::= "word"')
    return ["--grammar", str(path), *ONE_THREAD, "--temp", "0"]


def test_each_line_is_a_turn(qwenctl, demo_gguf, says_word):
    ran = qwenctl("chat", demo_gguf, "--no-think", *says_word, stdin="Hello\n\nAnd now?\n")
    assert (ran.code, ran.stdout, ran.stderr) == (0, "word\nword\n", "")


def test_commands_work_in_a_script(qwenctl, demo_gguf, says_word, tmp_path):
    path = tmp_path / "talk.json"
    script = f'/system Be brief.\n"""\ntwo\nlines\n"""\n/save {path}\n/stats\n/undo\n/exit\nnot read\n'
    ran = qwenctl("chat", demo_gguf, "--no-think", *says_word, stdin=script)
    assert (ran.code, ran.stdout) == (0, "word\n")
    assert "system prompt: Be brief." in ran.stderr
    assert "context" in ran.stderr
    assert "taken back: two lines" in ran.stderr
    saved = json.loads(path.read_text())
    assert saved["system"] == "Be brief."
    assert [(one["user"], one["answer"]) for one in saved["exchanges"]] == [("two\nlines", "word")]


def test_a_turn_that_fails_does_not_end_the_script_but_counts(qwenctl, demo_gguf, says_word):
    ran = qwenctl("chat", demo_gguf, "--no-think", *says_word, "--ctx", "96", stdin="x y z " * 200 + "\nHello\n")
    assert (ran.code, ran.stdout) == (1, "word\n")
    assert "but the context holds 96" in ran.stderr


def test_on_a_terminal_a_real_model_thinks_and_answers(demo_gguf, tmp_path):
    grammar = tmp_path / "paris.gbnf"  # which waits for the end of the thinking
    grammar.write_text('root ::= "**Paris**."')
    command = [sys.executable, "-m", "qwenctl", "chat", str(demo_gguf), "--grammar", str(grammar), *ONE_THREAD]
    with Terminal(command) as terminal:
        terminal.wait_for("tokens of context")
        terminal.send("What is the capital of France?\r")
        terminal.wait_for("▸ thought for ")
        terminal.wait_for("Paris.")
        terminal.wait_for("%)")
        terminal.send("\x04")
        assert terminal.wait_exit() == 0
        assert b"\x1b[1mParis" in terminal.raw


def test_a_real_chat_model_is_stopped_and_talked_to_again(smollm2_gguf):
    meter = re.compile(r"tokens \(\d+%\)$")
    command = [sys.executable, "-m", "qwenctl", "chat", str(smollm2_gguf), "--temp", "0", "--ctx", "1k", *ONE_THREAD]
    with Terminal(command) as terminal:
        terminal.wait_for("tokens of context")
        terminal.send("What is the opposite of hot?\r")
        terminal.wait_for("The opposite of hot is cold.")
        terminal.wait_for(meter.search)
        terminal.send("Tell me a long story about a dragon.\r")
        terminal.wait_for(lambda text: len(text.partition("dragon.\n")[2].split()) > 12)
        terminal.send("\x03")
        terminal.wait_for("stopped; what there is was kept")
        terminal.wait_for(meter.search)
        terminal.send("/undo\r")
        terminal.wait_for("taken back: Tell me a long story")
        terminal.wait_for(re.compile(r"tokens of context$").search)  # the next input line is there
        terminal.send("/regen\r")
        terminal.wait_for(lambda text: text.count("The opposite of hot is cold.") == 2)
        terminal.send("/exit\r")
        assert terminal.wait_exit() == 0


def test_another_model_goes_on(qwenctl, demo_gguf, says_word, home, tmp_path):
    models, talk = home / "data" / "qwenctl" / "models", tmp_path / "talk.json"
    models.mkdir(parents=True)
    (models / "second.gguf").symlink_to(demo_gguf)
    script = f"Hello\n/model nothing\n/model second\n/model\nAnd now?\n/save {talk}\n"
    ran = qwenctl("chat", demo_gguf, "--no-think", *says_word, stdin=script)
    assert (ran.code, ran.stdout) == (0, "word\nword\n")
    assert "error: no model nothing" in ran.stderr
    assert "second.gguf); /model NAME" in ran.stderr
    assert [one["user"] for one in json.loads(talk.read_text())["exchanges"]] == ["Hello", "And now?"]
    [saved] = json.loads(qwenctl("sessions", "ls", "--json").stdout)
    assert (saved["n_exchanges"], saved["model"].endswith("second.gguf")) == (2, True)


def test_lines_typed_while_the_model_loads_are_turns(demo_gguf, says_word, tmp_path):
    talk = tmp_path / "talk.json"
    with Terminal([sys.executable, "-m", "qwenctl", "chat", str(demo_gguf), "--no-think", *says_word]) as terminal:
        terminal.send(f"first\rsecond\r/save {talk}\r/exit\r")
        assert terminal.wait_exit() == 0
    assert [one["user"] for one in json.loads(talk.read_text())["exchanges"]] == ["first", "second"]


@pytest.mark.parametrize("hangup", [signal.SIG_DFL, signal.SIG_IGN])  # ignored: as below nohup
def test_a_terminal_that_hangs_up_leaves_the_half_answer_saved(qwenctl, demo_gguf, tmp_path, hangup):
    grammar = tmp_path / "endless.gbnf"
    grammar.write_text('root ::= "word " root')
    command = ["chat", str(demo_gguf), "--no-think", "--grammar", str(grammar), *ONE_THREAD]

    def program():
        signal.signal(signal.SIGHUP, hangup)
        sys.exit(run_command_line(command))

    with Terminal(program) as terminal:
        terminal.wait_for("tokens of context")
        terminal.send("Hello\r")
        terminal.wait_for("word word word")
        terminal.hang_up()
    [saved] = json.loads(qwenctl("sessions", "ls", "--json").stdout)
    [exchange] = json.loads(qwenctl("sessions", "show", saved["id"], "--json").stdout)["exchanges"]
    assert exchange["answer"].startswith("word word word")
    assert exchange["partial"]
