"""Options from the config file, the environment and presets: which one wins, and what is said of mistakes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.usefixtures("shared_cache")

GRAMMAR = 'root ::= "word"'


@pytest.fixture
def config(home):
    """Return `config(text)`: write the config file."""
    path = home / "config" / "qwenctl" / "config.toml"

    def write(text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def chosen(qwenctl):
    """Return `chosen(command, *words)`: option → (value, source) as `qwenctl config show` says."""

    def show(command, *words):
        ran = qwenctl("config", "show", command, "--json", *words)
        assert ran.code == 0, ran.stderr
        options = json.loads(ran.stdout)["commands"][command]
        return {key: (one["value"], one["from"].rpartition("/")[2]) for key, one in options.items()}

    return show


def test_later_ones_win(config, chosen, monkeypatch):
    config(
        "[defaults]\nctx = 1\ntemp = 1\ntop-p = 0.1\ntop-k = 1\n[run]\ntemp = 2\ntop-p = 0.2\ntop-k = 2\n"
        "[presets.x]\ntop-k = 4\nsystem = 'hi'\n"
    )
    monkeypatch.setenv("QWENCTL_TOP_P", "0.3")
    monkeypatch.setenv("QWENCTL_TOP_K", "3")
    assert chosen("run", "-p", "x") == {
        "ctx": ("1", "config.toml:2"),
        "temp": ("2", "config.toml:7"),
        "top-p": ("0.3", "QWENCTL_TOP_P"),
        "top-k": ("4", "config.toml:11"),
        "system": ("hi", "config.toml:12"),
    }
    assert chosen("chat")["temp"] == ("1", "config.toml:3")


def test_the_command_line_wins_over_all(qwenctl, config, demo_gguf, tmp_path, monkeypatch):
    (tmp_path / "word.gbnf").write_text(GRAMMAR)
    config(
        f'[defaults]\nmodel = "{demo_gguf}"\ngrammar = "{tmp_path}/word.gbnf"\nthink = true\nthreads = 1\nctx = 300\n'
    )
    ran = json.loads(qwenctl("run", "Hello", "--json").stdout)
    assert (ran["answer"], ran["thinking"], ran["n_ctx"]) == ("word", True, 300)
    monkeypatch.setenv("QWENCTL_CTX", "400")
    ran = json.loads(qwenctl("run", "Hello", "--json", "--no-think").stdout)
    assert (ran["answer"], ran["thinking"], ran["n_ctx"]) == ("word", False, 400)
    assert json.loads(qwenctl("run", "Hello", "--json", "--ctx", "500").stdout)["n_ctx"] == 500


def test_a_model_of_a_preset_and_of_the_environment(qwenctl, config, demo_gguf, monkeypatch):
    config('[presets.a]\nmodel = "of-the-preset"\n')
    monkeypatch.setenv("QWENCTL_MODEL", "of-the-environment")
    assert "no model of-the-environment" in qwenctl("run", "Hello").stderr
    assert "no model of-the-preset" in qwenctl("run", "Hello", "-p", "a").stderr
    assert "no model typed" in qwenctl("chat", "typed", "-p", "a").stderr


def test_a_switch_that_has_a_variable_of_its_own(config, chosen, monkeypatch):
    config("[chat]\nno-session = true\n")
    assert chosen("chat")["session"] == (False, "config.toml:2")
    monkeypatch.setenv("QWENCTL_SESSIONS", "on")
    assert "session" not in chosen("chat")


def test_a_resumed_chat_keeps_its_own(qwenctl, config, demo_gguf, tmp_path):
    (tmp_path / "word.gbnf").write_text(GRAMMAR)
    head = f'[defaults]\nmodel = "{demo_gguf}"\ngrammar = "{tmp_path}/word.gbnf"\nthreads = 1\n'
    config(head + "think = false\nsystem = 'first'\n")
    qwenctl("chat", stdin="Hello\n")
    config(head + "think = true\nsystem = 'second'\n[presets.x]\nsystem = 'third'\n")
    assert "system prompt: first" in qwenctl("chat", "-c", stdin="/system\n").stderr
    assert "system prompt: third" in qwenctl("chat", "-c", "-p", "x", stdin="/system\n").stderr
    assert "system prompt: fourth" in qwenctl("chat", "-c", "-p", "x", "--system", "fourth", stdin="/system\n").stderr
    assert "system prompt: second" in qwenctl("chat", stdin="/system\n").stderr


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[defaults]\ntempp = 1\n", "config.toml:2: no option tempp", "did you mean temp?"),
        ("[run]\njson = true\n", "config.toml:2: json cannot be configured", "--json on the command line"),
        ("[run]\nparallel = 3\n", "config.toml:2: no option parallel", "hint: "),
        ("[ruin]\nctx = 1\n", "config.toml:2: no section [ruin] is known", "did you mean [run]?"),
        ("[defaults]\nctx = 'much'\n", "config.toml:2: ctx: 'much' is not a number of tokens", "config show"),
        ("[defaults]\nctx = true\n", "config.toml:2: ctx is True", "not true or false"),
        ("[defaults]\nthink = 'perhaps'\n", "config.toml:2: think is 'perhaps'", "true or false: think = true"),
        ("[run]\noffload = 'sometimes'\n", "config.toml:2: offload: 'sometimes' is not one of", "config show"),
        ("[defaults]\nctx 5\n", "config.toml: ", "write TOML"),
    ],
)
def test_mistakes_name_line_and_near_miss(qwenctl, config, text, message, hint):
    config(text)
    for words in (("run", "Hello"), ("config", "show")):
        ran = qwenctl(*words)
        assert (ran.code, ran.stdout) == (2, "")
        assert message in ran.stderr
        assert hint in ran.stderr


def test_a_switch_can_be_written_and_typed_either_way(qwenctl, config, demo_gguf, tmp_path, chosen):
    (tmp_path / "word.gbnf").write_text(GRAMMAR)
    config(
        f"[defaults]\nno-think = true\nstats = true\nthreads = 1\ngrammar = '{tmp_path}/word.gbnf'\n"
        "[chat]\nsession = false\nno-history = false\n"
    )
    assert chosen("run")["think"] == (False, "config.toml:2")
    assert (chosen("chat")["session"][0], chosen("chat")["history"][0]) == (False, True)
    assert "decode" in qwenctl("run", demo_gguf, "Hello").stderr
    assert "decode" not in qwenctl("run", demo_gguf, "Hello", "--no-stats").stderr
    for words, n_saved in ([], 0), (["--session"], 1):
        qwenctl("chat", demo_gguf, *words, stdin="Hello\n")
        assert len(json.loads(qwenctl("sessions", "--json").stdout)) == n_saved


def test_a_mistake_in_a_preset_is_found_by_config_show(qwenctl, config):
    config("[presets.x]\ntempp = 0\n")
    assert "config.toml:2: no option tempp" in qwenctl("config").stderr


def test_what_another_command_has_is_passed_over(config, chosen):
    config("[defaults]\nparallel = 3\nno-history = true\n")
    assert chosen("run") == {}
    assert set(chosen("batch")) == {"parallel"}
    assert set(chosen("chat")) == {"history"}


def test_presets_that_are_not_there(qwenctl, config):
    config("[presets.reviewer]\nsystem = 'x'\n")
    ran = qwenctl("run", "-p", "reviever", "Hello")
    assert (ran.code, "did you mean reviewer?" in ran.stderr) == (2, True)
    assert "write [presets.abc] in" in qwenctl("chat", "--preset", "abc").stderr


def test_a_bad_variable_is_named(qwenctl, monkeypatch):
    monkeypatch.setenv("QWENCTL_CTX", "much")
    assert "QWENCTL_CTX: ctx: 'much' is not a number of tokens" in qwenctl("run", "Hello").stderr


def test_show_and_path(qwenctl, config, monkeypatch):
    assert "no option is configured" in qwenctl("config").stdout
    ran = qwenctl("config", "path")
    assert "there is no such file yet" in ran.stderr
    path = config('[defaults]\nthink = false\nstop = ["a", "b"]\n[presets.x]\n[presets.y]\n')
    assert qwenctl("config", "path").stdout == f"{path}\n"
    shown = qwenctl("config").stdout
    assert "presets    x, y" in shown
    assert f"chat     think   false  {path}:2" in shown
    assert f"a, b   {path}:3" in shown
    everything = json.loads(qwenctl("config", "show", "run", "--all", "--json").stdout)["commands"]["run"]
    assert everything["offload"] == {"value": "auto", "from": "default"}
    assert everything["stop"]["value"] == ["a", "b"]
    monkeypatch.setenv("QWENCTL_MODELS", "/elsewhere")
    assert json.loads(qwenctl("config", "--json").stdout)["folders"]["models"] == {
        "path": "/elsewhere",
        "from": "QWENCTL_MODELS",
    }


def test_help_does_not_read_it(qwenctl, config):
    config("[[[ no TOML")
    assert qwenctl("run", "--help").code == 0
    program = (
        "import sys; from qwenctl.cli.main import run_command_line as run; run(['--help']); "
        "print('tomllib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize(("text", "thinking"), [("on", True), ("off", False), ("0", False), ("true", True)])
def test_switches_in_the_environment(qwenctl, demo_gguf, tmp_path, monkeypatch, text, thinking):
    (tmp_path / "word.gbnf").write_text(GRAMMAR)
    monkeypatch.setenv("QWENCTL_THINK", text)
    monkeypatch.setenv("QWENCTL_GRAMMAR", str(tmp_path / "word.gbnf"))
    monkeypatch.setenv("QWENCTL_STATS", "on")
    monkeypatch.setenv("QWENCTL_MAX_TOKENS", "30")
    ran = qwenctl("run", demo_gguf, "Hello", "--json", "--threads", "1")
    assert json.loads(ran.stdout)["thinking"] is thinking
    assert "decode" in ran.stderr


def test_a_key_for_the_server_does_not_bother_a_batch(qwenctl, demo_gguf, tmp_path, monkeypatch):
    (tmp_path / "word.gbnf").write_text(GRAMMAR)
    (tmp_path / "in.jsonl").write_text('{"prompt": "Hello"}\n')
    monkeypatch.setenv("QWENCTL_API_KEY", "a-secret-key-of-the-server")
    out = tmp_path / "out.jsonl"
    ran = qwenctl(
        "batch", demo_gguf, tmp_path / "in.jsonl", "-o", out, "--grammar", tmp_path / "word.gbnf", "--no-think"
    )
    assert ran.code == 0, ran.stderr
    assert "a-secret-key" not in qwenctl("config").stdout
