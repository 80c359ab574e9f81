"""What qwenctl promises to whoever uses it in a pipe, a script or a terminal: twelve checks, each end to end.

Those that need much are elsewhere and named in ELSEWHERE.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jsonschema
import pytest

from qwenctl.core import Message
from qwenctl.services.generation import ChatModel, ChatOptions
from qwenctl.services.reply import ReplyDone
from tests.chat_templates import CHATML, QWEN3, THINKING_2507
from tests.cli.scripted_chat import scripted_chat
from tests.cli.terminal import Terminal
from tests.hub_server.server import HubServer
from tests.scripted_engine import ScriptedEngine
from tests.tiny_gguf import TinyGguf

pytestmark = pytest.mark.usefixtures("shared_cache")
QWENCTL = [sys.executable, "-m", "qwenctl"]
ONE = ["--threads", "1", "--seed", "1"]
SHORT = [*ONE, "--max-tokens", "12"]
ELSEWHERE = {
    "3: a download that was killed goes on, and ends with the right bytes": (
        "tests.scripts.test_bench_pull",
        "test_killed_pulls_end_with_the_right_bytes",
    ),
    "10: an interrupted batch goes on: each line answered once": (
        "tests.cli.test_batch",
        "test_an_interrupted_run_goes_on",
    ),
}


@pytest.fixture
def endless(tmp_path):
    """Return options that let any model write "word word …" without end."""
    path = tmp_path / "endless.gbnf"
    path.write_text('root ::= "word " root')
    return ["--no-think", "--grammar", str(path), *ONE]


def answered(model, messages, **options):
    """Return what a scripted model's reply comes to."""
    return next(event for event in model.stream(messages, ChatOptions(**options)) if isinstance(event, ReplyDone))


def test_1_standard_output_holds_the_answer_alone(qwenctl_process, demo_gguf):
    command = ("run", demo_gguf, "--think", *ONE, "--think-budget", 8, "--max-tokens", 40)
    ran = qwenctl_process(*command, stdin=b"What is the capital of France?\n")
    said = json.loads(qwenctl_process(*command, "--json", stdin=b"What is the capital of France?\n").stdout)
    assert said["reasoning"]
    assert (ran.code, ran.stdout) == (0, said["answer"].rstrip("\n") + "\n")
    assert said["reasoning"] in ran.stderr
    assert "\x1b" not in ran.stdout + ran.stderr


def test_2_a_prompt_too_long_is_refused_with_both_counts(qwenctl, demo_gguf):
    ran = qwenctl("run", demo_gguf, "--ctx", "64", stdin="word " * 200)
    assert (ran.code, ran.stdout) == (1, "")
    assert re.search(r"the prompt is \d+ tokens long, but the context holds 64", ran.stderr)
    assert "hint: use --ctx " in ran.stderr
    cut = qwenctl("run", demo_gguf, "--ctx", "64", "--overflow", "truncate-middle", *SHORT, stdin="word " * 200)
    assert cut.code == 0
    assert "warning: the prompt was cut from " in cut.stderr


@pytest.mark.parametrize("promise", ELSEWHERE)
def test_3_and_10_are_kept_elsewhere(promise):
    module, name = ELSEWHERE[promise]
    assert callable(getattr(importlib.import_module(module), name))


def test_4_json_is_one_document_and_standard_error_has_none(qwenctl, demo_gguf, monkeypatch, tmp_path):
    gguf = TinyGguf.of("qwen3moe").write(tmp_path / "tiny.gguf").read_bytes()
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.add("o/Tiny-GGUF", {"Tiny-Q4_K_M.gguf": gguf})
        for command in (
            ("pull", "o/Tiny-GGUF"),
            ("models",),
            ("plan", demo_gguf),
            ("run", demo_gguf, "Hello", *SHORT),
            ("run", demo_gguf, "Hello", *SHORT, "--stats"),
        ):
            ran = qwenctl(*command, "--json")
            assert ran.code == 0, ran.stderr
            assert json.loads(ran.stdout)
            assert not re.search(r'[{}]|^\[|"\w+":', ran.stderr), ran.stderr


def test_5_ctrl_c_ends_one_answer_with_130_and_keeps_what_was_written(demo_gguf, endless):
    command = [*QWENCTL, "run", str(demo_gguf), "Hello", *endless]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first = process.stdout.read(5)
    process.send_signal(signal.SIGINT)
    rest, stderr = process.communicate()
    assert process.returncode == 130
    assert (first + rest).startswith(b"word ")
    assert rest.endswith(b"\n")
    assert stderr.decode().split() == ["interrupted"]


def test_5_ctrl_c_once_in_a_chat_keeps_the_turn(demo_gguf, endless, tmp_path):
    saved = tmp_path / "talk.json"
    with Terminal([*QWENCTL, "chat", str(demo_gguf), *endless, "--max-tokens", "4000"]) as terminal:
        terminal.wait_for("tokens of context")
        terminal.send("Hello\r")
        terminal.wait_for("word word word")
        terminal.send("\x03")
        terminal.wait_for("stopped; what there is was kept")
        terminal.wait_for("%)")
        terminal.send(f"/save {saved}\r")
        terminal.wait_for("saved 1 exchange")
        [exchange] = json.loads(saved.read_text())["exchanges"]
        assert exchange["answer"].startswith("word word word")
        assert exchange["partial"]
        terminal.send("\x04")
        assert terminal.wait_exit() == 0


def test_5_ctrl_c_twice_in_a_chat_ends_with_130():
    script = {"replies": [["never ending "] * 500], "seconds_per_step": 3.0}  # the first one has no effect for 3 s
    with Terminal(partial(scripted_chat, "terminal", Path(os.devnull), None, script)) as terminal:
        terminal.wait_for("tokens of context")
        terminal.send("Go on\r")
        terminal.wait_for("reading the prompt")
        while terminal.is_running():  # two that come at once are one
            terminal.send("\x03")
            time.sleep(0.1)
        assert terminal.wait_exit() == 130


def test_6_earlier_reasoning_is_not_sent_again_but_that_of_a_chain_of_tool_calls_is():
    call = {"tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]}
    talk = [
        Message("user", "Hello"),
        Message("assistant", "Hi.", "thought about the greeting"),
        Message("user", "Add one."),
        Message("assistant", "", "thought that a tool is needed", call),
        Message("tool", "2"),
    ]
    with ScriptedEngine([["Two."]], chat_template=QWEN3) as engine:
        model = ChatModel(engine)
        answered(model, talk)
        model.close()
    [prompt] = engine.prompts
    assert "thought about the greeting" not in prompt
    assert "<think>\nthought that a tool is needed\n</think>" in prompt


@pytest.mark.parametrize("pieces", [["hm", "\n</think>\n\n", "Hi."], list("hm\n</think>\n\nHi.")])
def test_7_thinking_that_the_prompt_has_opened_is_told_from_the_answer(pieces):
    with ScriptedEngine([pieces], chat_template=THINKING_2507) as engine:
        model = ChatModel(engine)
        done = answered(model, [Message("user", "Hello")])
        model.close()
    assert (done.reasoning, done.answer) == ("hm", "Hi.")


def test_7_a_model_that_never_thinks_says_that_it_ignores_the_wish():
    with ScriptedEngine([["Hi."]], chat_template=CHATML) as engine:
        model = ChatModel(engine)
        prepared = model.prepare([Message("user", "Hello")], ChatOptions(thinking=True))
        model.close()
    assert not prepared.thinking
    assert any("does not think" in note for note in prepared.notes)


@pytest.mark.parametrize("budget", [0, 1, 7, 40])
def test_8_thinking_keeps_to_its_budget_and_an_answer_follows(qwenctl, demo_gguf, budget):
    ran = qwenctl("run", demo_gguf, "Why?", "--think", "--think-budget", budget, *ONE, "--max-tokens", 120, "--json")
    said = json.loads(ran.stdout)
    n_sentence_tokens = 60  # of the official sentence that closes the block, in the demo's small vocabulary
    assert said["reasoning_tokens"] <= budget + n_sentence_tokens
    assert said["answer"].strip()


def test_9_an_answer_after_thinking_fits_its_schema(qwenctl, demo_gguf):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99}},
        "required": ["city", "age"],
        "additionalProperties": False,
    }
    command = ("run", demo_gguf, "Name a city.", "--think", "--think-budget", 16, *ONE, "--max-tokens", 300, "--json")
    said = json.loads(qwenctl(*command, "--schema", json.dumps(schema)).stdout)
    jsonschema.validate(json.loads(said["answer"]), schema)
    assert said["reasoning"]
    assert not said["reasoning"].startswith("{")


@pytest.mark.parametrize("words", [("run", "Hello", "--no-think", "--max-tokens", "300", "-q"), ("show",), ("--help",)])
def test_11_a_reader_that_leaves_gets_no_traceback(demo_gguf, words):
    model = [] if words == ("--help",) else [str(demo_gguf)]
    command = [*QWENCTL, words[0], *model, *words[1:]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(1)
    process.stdout.close()
    stderr = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() in (0, 1)
    assert stderr == ""


@pytest.mark.parametrize("variable", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_12_a_plain_terminal_gets_no_escapes(demo_gguf, tmp_path, variable):
    word = tmp_path / "word.gbnf"
    word.write_text('root ::= "word"')
    held = ["--no-think", "--grammar", str(word), *ONE]
    with Terminal([*QWENCTL, "chat", str(demo_gguf), *held], env=variable) as terminal:
        terminal.wait_for("\n>")
        terminal.send("Hello\n")
        terminal.wait_for("word")
        terminal.send("/undoo\n/help\n/stats\n")
        terminal.wait_for("context  ")
        terminal.send("\x04")
        assert terminal.wait_exit() == 0
        assert b"\x1b" not in terminal.raw
    for words in (["run", str(demo_gguf), "Hello", "--think", *SHORT, "--stats"], ["models"], ["run", "a", "b", "c"]):
        with Terminal([*QWENCTL, *words], env=variable) as terminal:
            terminal.wait_exit()
            assert terminal.text
            assert b"\x1b" not in terminal.raw
