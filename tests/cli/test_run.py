"""`qwenctl run` with the demo model: what goes where, in a pipe, on a terminal, and when it is cut short."""

from __future__ import annotations

import json
import os
import sys

import pytest

from qwenctl.services.demo_file import demo_target
from qwenctl.settings import Settings
from tests.cli.terminal import Terminal

QWENCTL = [sys.executable, "-m", "qwenctl"]
pytestmark = pytest.mark.usefixtures("shared_cache")
FEW = ["--max-tokens", "12", "--seed", "1", "--threads", "1"]


def test_a_pipe_in_and_a_pipe_out(qwenctl_process, demo_gguf):
    ran = qwenctl_process("run", demo_gguf, *FEW, "--no-think", stdin=b"What is the capital of France?\n")
    assert ran.code == 0
    assert ran.stdout.strip()
    assert ran.stdout.endswith("\n")
    assert "\x1b" not in ran.stdout + ran.stderr
    assert "<think>" not in ran.stdout


def test_without_a_model_the_demo_answers(qwenctl, demo_gguf):
    settings = Settings.from_environment(os.environ)
    settings.cache_dir.mkdir(parents=True, exist_ok=True)
    demo_target(settings).symlink_to(demo_gguf)
    named = qwenctl("run", demo_gguf, "Hello", *FEW, "--no-think")
    assert qwenctl("run", "Hello", *FEW, "--no-think") == named
    assert qwenctl("run", "demo", "Hello", *FEW, "--no-think") == named


def test_json_is_one_document_and_says_where_values_came_from(qwenctl, demo_gguf):
    ran = qwenctl("run", demo_gguf, "Hello", *FEW, "--temp", "0.5", "--json")
    document = json.loads(ran.stdout)
    assert ran.code == 0
    assert document["finish_reason"] in ("length", "stop")
    assert document["usage"]["generated_tokens"] <= 12
    assert document["sampling"]["temperature"] == {"value": 0.5, "from": "option"}
    assert document["sampling"]["seed"] == {"value": 1, "from": "option"}
    assert document["sampling"]["min_p"]["from"] == "mode"
    assert document["thinking"] is True
    assert "{" not in ran.stderr
    again = json.loads(qwenctl("run", demo_gguf, "Hello", *FEW, "--temp", "0.5", "--json").stdout)
    assert (again["answer"], again["reasoning"]) == (document["answer"], document["reasoning"])


def test_stats_and_notes_go_to_standard_error(qwenctl, demo_gguf):
    ran = qwenctl("run", demo_gguf, "Hello", *FEW, "--no-think", "--stats")
    for name in ("model", "mode", "sampling", "prompt", "generated", "first token", "prefill", "decode", "context"):
        assert f"\n{name} " in "\n" + ran.stderr
    assert "seed 1 (as asked)" in ran.stderr
    quiet = qwenctl("run", demo_gguf, "Hello", *FEW, "--no-think", "-q")
    assert quiet.stdout == ran.stdout
    assert quiet.stderr == ""


def test_reasoning_goes_to_standard_error_or_nowhere(qwenctl, demo_gguf):
    # The grammar waits for the end of the demo's thinking.
    command = ("run", demo_gguf, "Hello", "--threads", 1, "--seed", 1, "--grammar", _grammar(demo_gguf))
    document = json.loads(qwenctl(*command, "--json").stdout)
    assert document["answer"] == "Paris."
    assert document["thinking_end"] == "model"
    ran = qwenctl(*command)
    assert (ran.stdout, ran.stderr) == ("Paris.\n", f"{document['reasoning']}\n\n")
    hidden = qwenctl(*command, "--hide-reasoning")
    assert (hidden.stdout, hidden.stderr) == ("Paris.\n", "")


def test_a_thinking_budget_is_kept_and_reported(qwenctl, demo_gguf):
    command = ("run", demo_gguf, "Hello", "--threads", 1, "--seed", 1, "--max-tokens", 200)
    ran = qwenctl(*command, "--think-budget", 3, "--stats")
    assert ran.stdout.strip()
    assert "Considering the limited time" in ran.stderr
    assert "\nmode         thinking (as asked)\n" in ran.stderr
    assert "tokens, 3 allowed, ended when its tokens were used up\n" in ran.stderr
    off = qwenctl(*command, "--think-budget", 3, "--no-think")
    assert "--think-budget is ignored" in off.stderr
    none = json.loads(qwenctl(*command, "--think-budget", 0, "--json").stdout)
    assert (none["reasoning"], none["thinking_because"]) == (None, "a thinking budget of 0")
    assert qwenctl(*command, "--think-budget", "-1").code == 2


def _grammar(demo_gguf):
    path = demo_gguf.with_suffix(".gbnf")
    path.write_text('root ::= "Paris."')
    return path


def test_the_first_code_block_alone_is_printed(qwenctl, demo_gguf, tmp_path):
    code, prose = tmp_path / "code.gbnf", tmp_path / "prose.gbnf"
    code.write_text('root ::= "Run this:\\n\\n```sh\\necho one\\n\\techo two\\n```\\nor\\n```\\nx\\n```\\n"')
    prose.write_text('root ::= "no code"')
    command = ("run", demo_gguf, "Hello", "--no-think", "--threads", 1)
    ran = qwenctl(*command, "-x", "--grammar", code)
    assert (ran.code, ran.stdout) == (0, "echo one\n\techo two\n")
    document = json.loads(qwenctl(*command, "--json", "--grammar", code).stdout)
    assert document["code"] == ["echo one\n\techo two\n", "x\n"]
    ran = qwenctl(*command, "--extract-code", "--grammar", prose)
    assert (ran.code, ran.stdout) == (1, "")
    assert "error: the answer holds no code block" in ran.stderr


def test_an_answer_that_was_cut_says_why(qwenctl, demo_gguf):
    ran = qwenctl("run", demo_gguf, "Hello", "--no-think", "--max-tokens", "2", "--threads", "1")
    assert ran.code == 0
    assert "the answer ends here: 2 tokens were allowed (--max-tokens)" in ran.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["missing.gguf", "Hi"], 1, "no model missing.gguf"),
        (["./here/model", "Hi"], 1, "no model ./here/model"),
        (["missing.gguf"], 1, "no model missing.gguf"),
        (["a", "b", "c"], 2, "3 words instead of a model and a prompt"),
        (["Hi", "--temp", "-1"], 2, "temperature must lie between"),
        (["Hi", "--ctx", "many"], 2, "is not a number of tokens"),
        (["Hi", "--system", "@missing"], 2, "missing: No such file"),
        (["Hi", "--grammar", "missing"], 2, "does not exist"),
        ([], 2, "the prompt is empty"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(qwenctl, words, code, message):
    ran = qwenctl("run", *words)
    assert (ran.code, ran.stdout) == (code, "")
    assert message in ran.stderr
    assert ran.stderr.startswith("error: ")
    assert len(ran.stderr.splitlines()) <= 2


def test_a_file_that_is_no_model_is_one_line(qwenctl, tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    ran = qwenctl("run", path, "Hi")
    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: {path}: ")


def test_a_grammar_that_is_none_is_one_line(qwenctl, demo_gguf, tmp_path):
    path = tmp_path / "bad.gbnf"
    path.write_text("root ::= (")
    ran = qwenctl("run", demo_gguf, "Hi", "--grammar", path)
    assert ran.code == 2
    assert ran.stderr.startswith("error: ")


def test_on_a_terminal_reasoning_is_dimmed_and_the_answer_is_not(demo_gguf):
    held = ["--grammar", str(_grammar(demo_gguf)), "--seed", "1"]
    command = [*QWENCTL, "run", str(demo_gguf), "Hello", *held, "--threads", "1"]
    with Terminal(command) as terminal:
        assert terminal.wait_exit() == 0
        thought = terminal.text.removesuffix("\n\nParis.")
        assert thought != terminal.text
        assert b"\x1b[2m" + thought[:3].encode() in terminal.raw
    for variable in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        with Terminal(command, env=variable) as terminal:
            assert terminal.wait_exit() == 0
            assert terminal.text == f"{thought}\n\nParis."
            assert b"\x1b" not in terminal.raw


def test_a_terminal_is_not_waited_for(demo_gguf):
    with Terminal([*QWENCTL, "run", str(demo_gguf)]) as terminal:
        assert terminal.wait_exit() == 2
        assert "error: no prompt, and standard input is a terminal" in terminal.text
