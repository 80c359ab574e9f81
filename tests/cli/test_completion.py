"""Completion in the shells themselves: bash always, zsh and fish where they are installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qwenctl.cli.completion.bash_script import bash_script
from qwenctl.cli.completion.completion_table import Value, completion_table
from qwenctl.cli.completion.fish_script import fish_script
from qwenctl.cli.completion.zsh_script import zsh_script
from qwenctl.cli.main import COMMANDS, cli
from qwenctl.services.conversation import Conversation
from qwenctl.services.session import new_session
from qwenctl.services.session_store import SessionStore
from tests.cli.terminal import Terminal

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def table():
    return completion_table(cli)


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """Put a `qwenctl` on PATH, and this test's folder under the user's feet."""
    program = tmp_path / "bin" / "qwenctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m qwenctl "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def state(home):
    """Models, presets, templates and a chat to complete."""
    models = home / "data" / "qwenctl" / "models"
    models.mkdir(parents=True)
    for name in ("qwen3-8b.gguf", "big-00001-of-00002.gguf", "big-00002-of-00002.gguf", "$(touch hacked).gguf"):
        (models / name).touch()
    config = home / "config" / "qwenctl"
    (config / "templates").mkdir(parents=True)
    (config / "templates" / "translate.txt").touch()
    (config / "config.toml").write_text("[presets.reviewer]\ntemp = 0.2\n['presets'.'two words']\n")
    talk = Conversation().add_user("Why?").add_assistant("So.")
    return SessionStore(models.parent / "sessions.db").save(new_session("/m", "m"), talk).head.session_id


def test_the_values_of_this_machine(qwenctl, state):
    values = {
        kind: [one["word"] for one in json.loads(qwenctl("completion", "--values", kind, "--json").stdout)]
        for kind in ("models", "presets", "sessions", "templates")
    }
    assert values == {
        "models": ["big", "qwen3-8b", "demo"],
        "presets": ["reviewer"],
        "sessions": [state],
        "templates": ["translate"],
    }
    assert qwenctl("completion", "--values", "sessions").stdout == f"{state}\tWhy?\n"


def test_values_are_found_without_heavy_modules(qwenctl, home):
    assert qwenctl("completion", "--values", "sessions").stdout == ""
    (home / "config" / "qwenctl").mkdir(parents=True)
    (home / "config" / "qwenctl" / "config.toml").write_text("[[[")
    program = (
        "import sys; from qwenctl.cli.main import run_command_line as run\n"
        "kinds = ('models', 'presets', 'sessions', 'templates')\n"
        "codes = [int(run(['completion', '--values', kind])) for kind in kinds]\n"
        "print(codes, [name for name in ('numpy', 'llama_cpp', 'rich', 'jinja2', 'gguf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (done.stdout.splitlines()[-1], done.stderr) == ("[0, 0, 0, 0] []", "")


def test_usage(qwenctl):
    for words in ([], ["bash", "--values", "models"], ["tcsh"]):
        assert qwenctl("completion", *words).code == 2


def test_the_table_knows_every_command_and_the_kinds_of_values(table):
    entries = {entry.path: entry for entry in table}
    assert {name for name, _ in entries[""].commands} == set(COMMANDS)
    assert {"models rm", "sessions export", "config show"} <= set(entries)
    options = {name: option.value for option in entries["run"].options for name in option.names}
    assert options["-p"] == Value("presets")
    assert options["--template"] == Value("templates", or_files=True)
    assert options["--no-think"] is None
    assert options["--system"] == Value("nothing")
    assert options["--grammar"] == Value("files")
    assert options["--offload"] == Value("choices", ("auto", "off", "on"))
    assert entries["chat"].words == (Value("models", or_files=True),)
    assert {option.value for option in entries["chat"].options if "-r" in option.names} == {Value("sessions")}
    assert entries["models rm"].words == (Value("models"),)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ch"], ["chat"]),
        (["sessions", ""], ["ls", "show", "export", "rm"]),
        (["run", "--offl"], ["--offload"]),
        (["run", "--offload", ""], ["auto", "off", "on"]),
        (["run", "-p", ""], ["reviewer"]),
        (["run", "--template", "tr"], ["translate"]),
        (["run", "--think-budget", ""], []),
        (["chat", "qw"], ["qwen3-8b"]),
        (["chat", "no"], ["notes.md"]),
        (["convert", "x", "--type", "q4_k"], ["q4_k_m", "q4_k_s", "q4_k_m+"]),
        (["models", "rm", ""], ["big", "qwen3-8b", "demo"]),
        (["run", "-f", "wi"], ["with blank.txt"]),
    ],
)
@pytest.mark.usefixtures("state")
def test_bash(table, on_path, words, expected):
    (on_path / "notes.md").touch()
    (on_path / "with blank.txt").touch()
    line = " ".join(f"'{word}'" for word in ["qwenctl", *words])
    program = f"""{bash_script(table)}
        COMP_WORDS=({line}); COMP_CWORD={len(words)}
        _qwenctl; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=False)
    assert [one for one in done.stdout.splitlines() if one] == expected
    assert not (on_path / "hacked").exists()


def test_bash_offers_a_session_on_a_terminal(table, on_path, state):
    (on_path / "script").write_text(bash_script(table))
    with Terminal(["bash", "--norc", "--noprofile", "-i"], env={"PS1": "ready$ "}) as terminal:
        terminal.wait_for("ready$")
        terminal.send(f"source {on_path}/script\r")
        terminal.send("qwenctl chat --resume \t")
        terminal.wait_for(f"--resume {state}")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh(table, on_path, state):
    (on_path / "script").write_text(zsh_script(table))
    with Terminal(["zsh", "-f", "-i"], env={"PS1": "ready$ "}, columns=120) as terminal:
        terminal.wait_for("ready$")
        terminal.send(f"autoload -Uz compinit; compinit -u -D; source {on_path}/script; echo sour''ced\r")
        terminal.wait_for("sourced")
        terminal.send("qwenctl comp\t")
        terminal.wait_for("qwenctl completion")
        terminal.send("\x15qwenctl run --offload \t")
        terminal.wait_for("auto")
        terminal.send("\x15qwenctl sessions show \t")
        terminal.wait_for(f"sessions show {state}")
        terminal.send("\x15qwenctl sessions \t")
        terminal.wait_for("Write a saved chat")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("qwenctl ch", ["chat"]),
        ("qwenctl run --offload ", ["auto", "off", "on"]),
        ("qwenctl run -p ", ["reviewer"]),
        ("qwenctl models rm ", ["big", "demo", "qwen3-8b"]),
        ("qwenctl run --no-thi", ["--no-think"]),
    ],
)
@pytest.mark.usefixtures("state")
def test_fish(table, on_path, line, expected):
    (on_path / "script").write_text(fish_script(table))
    program = f"source {on_path}/script; complete -C '{line}'"
    done = subprocess.run(["fish", "-N", "-c", program], capture_output=True, text=True, check=False)
    assert [one.split("\t")[0] for one in done.stdout.splitlines()] == expected, done.stderr


def test_scripts_are_written(qwenctl, table):
    for shell, script in (("bash", bash_script), ("zsh", zsh_script), ("fish", fish_script)):
        assert qwenctl("completion", shell).stdout == script(table)
    assert subprocess.run(["bash", "-n"], input=bash_script(table), text=True, check=False).returncode == 0
