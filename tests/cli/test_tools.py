"""`--tool` and `--mcp` with the demo model, which has learned to call get_weather: pipes, a terminal, a chat."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.cli.terminal import Terminal

pytestmark = pytest.mark.usefixtures("shared_cache")
QUESTION = "What is the weather in Paris?"
GREEDY = ["--temp", "0", "--threads", "1"]
QWENCTL = [sys.executable, "-m", "qwenctl"]


@pytest.fixture
def weather(tmp_path: Path) -> Path:
    file = tmp_path / "weather.py"
    text = 'def get_weather(city: str) -> dict:\n    """Get the weather of a city."""\n'
    file.write_text(text + '    return {"temperature": 21, "sky": "clear"}\n')
    return file


def test_an_approved_call(qwenctl, demo_gguf, weather):
    ran = qwenctl("run", demo_gguf, QUESTION, "--tool", weather, "--approve-all", *GREEDY)
    assert (ran.code, ran.stdout) == (0, "In Paris it is 21 degrees, and the sky is clear.\n")
    assert '▸ get_weather(city="Paris")\n◂ {"temperature": 21, "sky": "clear"}\n' in ran.stderr


def test_json_holds_the_calls(qwenctl, demo_gguf, weather):
    ran = qwenctl("run", demo_gguf, QUESTION, "--tool", f"{weather}:get_weather", "--approve-all", "--json", *GREEDY)
    document = json.loads(ran.stdout)
    assert document["answer"] == "In Paris it is 21 degrees, and the sky is clear."
    assert document["tool_calls"] == [
        {
            "name": "get_weather",
            "arguments": {"city": "Paris"},
            "result": '{"temperature": 21, "sky": "clear"}',
            "is_error": False,
        }
    ]


def test_in_a_pipe_nothing_is_run_unasked(qwenctl, demo_gguf, weather):
    ran = qwenctl("run", demo_gguf, QUESTION, "--tool", weather, "--json", *GREEDY)
    assert ran.code == 0
    assert "the call of get_weather was refused" in ran.stderr
    assert "--approve-all" in ran.stderr
    assert json.loads(ran.stdout)["tool_calls"][0]["is_error"]
    none = qwenctl("run", demo_gguf, QUESTION, "--tool", weather, "--tools-approve", "none", "--json", *GREEDY)
    assert "refused" not in none.stderr
    assert json.loads(none.stdout)["tool_calls"][0]["is_error"]


def test_a_chat_over_a_pipe_keeps_calls_in_its_history(qwenctl, demo_gguf, weather, home):
    ran = qwenctl("chat", demo_gguf, "--tool", weather, "--approve-all", *GREEDY, stdin=QUESTION + "\n")
    assert (ran.code, ran.stdout) == (0, "In Paris it is 21 degrees, and the sky is clear.\n")
    assert '▸ get_weather(city="Paris")' in ran.stderr
    (session,) = json.loads(qwenctl("sessions", "ls", "--json").stdout)
    saved = json.loads(qwenctl("sessions", "export", session["id"], "--format", "json").stdout)
    assert [step["role"] for step in saved["exchanges"][0]["steps"]] == ["assistant", "tool"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--tool", "missing.py"], 2, "there is no file missing.py with tools"),
        (["--mcp", ""], 2, "the command of an MCP server is empty"),
        (["--mcp", "/no/such/server"], 1, "the MCP server server did not start"),
    ],
)
def test_tools_that_do_not_start(qwenctl, words, code, message):
    ran = qwenctl("run", "no-such-model.gguf", "Hello", *words)
    assert ran.code == code
    assert message in ran.stderr


@pytest.mark.parametrize(("key", "answer"), [("y", "21 degrees"), ("n", "◂ failed: the user did not")])
def test_on_a_terminal_somebody_is_asked(demo_gguf, weather, key, answer):
    with Terminal([*QWENCTL, "run", str(demo_gguf), QUESTION, "--tool", str(weather), *GREEDY]) as terminal:
        terminal.wait_for('May get_weather be run with {"city": "Paris"} ?')
        terminal.send(f"{key}\r")
        terminal.wait_for(answer)
        assert terminal.wait_exit() == 0


def test_in_a_chat_a_tool_can_be_allowed_for_good(demo_gguf, weather):
    with Terminal([*QWENCTL, "chat", str(demo_gguf), "--tool", str(weather), *GREEDY], rows=40) as terminal:
        terminal.wait_for("tokens of context")
        terminal.send(QUESTION + "\r")
        terminal.wait_for('May get_weather be run with {"city": "Paris"} ?')
        terminal.send("a")
        terminal.wait_for("In Paris it is 21 degrees, and the sky is clear.")
        terminal.wait_for(lambda text: text.rstrip().endswith("%)") or "%)]" in text)
        terminal.send("/clear\r")
        terminal.wait_for("a new conversation")
        terminal.send("What is the weather in Rome?\r")
        shown = terminal.wait_for(lambda text: text.count("it is 21 degrees") == 2)
        assert shown.count("May get_weather be run") == 1
        assert '▸ get_weather(city="Rome")\n◂ {"temperature": 21' in shown
        terminal.send("\x04")
        assert terminal.wait_exit() == 0
