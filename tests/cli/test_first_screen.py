"""`qwenctl` alone: what machine this is, what suits it, what is here, how to start."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace

import click
import pytest

from qwenctl.cli import first_screen
from qwenctl.cli.main import cli
from qwenctl.services.first_look import first_look
from qwenctl.services.graphics_cards import Card
from qwenctl.settings import Settings
from tests.cli.terminal import Terminal
from tests.conftest import ROOT


@pytest.fixture
def look(home):
    return first_look(Settings(data_dir=home / "data", cache_dir=home / "cache", models_dir=home / "models"))


def shown(monkeypatch, capsys, look):
    monkeypatch.setattr(first_screen, "first_look", lambda _: look)
    first_screen.show_first_screen(Settings(data_dir=ROOT, cache_dir=ROOT, models_dir=ROOT, plain=True))
    return capsys.readouterr()


def test_it_says_what_suits_and_how_to_start(qwenctl):
    ran = qwenctl()
    assert ran.code == 0
    for label in ("processor", "memory", "disk", "models here  only the bundled demo", "qwen3:30b-a3b"):
        assert label in ran.stdout
    (marked,) = re.findall(r"(?m)^\*  (\S+) +(\S+)", ran.stdout)
    assert f"qwenctl pull {marked[0]}:{marked[1]}" in ran.stdout
    assert f"qwenctl chat {marked[0]}:{marked[1]}" in ran.stdout
    assert "\x1b" not in ran.stdout


def test_the_commands_that_it_names_can_be_typed(qwenctl):
    commands = re.findall(r"(?m)^  (qwenctl .+?)  ", qwenctl().stdout)
    assert len(commands) == 6
    for line in commands:
        words = shlex.split(line)[1:]
        if words == ["--help"]:
            continue
        command = cli.get_command(click.Context(cli), words[0])
        with click.Context(command, resilient_parsing=True) as context:
            command.parse_args(context, words[1:])


def test_models_that_are_here(qwenctl, home):
    models = home / "data" / "qwenctl" / "models"
    models.mkdir(parents=True)
    for name in ("qwen3-8b.gguf", "big-00001-of-00002.gguf", "big-00002-of-00002.gguf"):
        (models / name).touch()
    shown = qwenctl().stdout
    assert "models here  big, qwen3-8b\n" in shown
    assert "qwenctl chat big " in shown
    (models.parent / "default-model").write_text("qwen3-8b\n")
    shown = qwenctl().stdout
    assert "big, qwen3-8b (default)" in shown
    assert re.search(r"(?m)^  qwenctl chat +talk with qwen3-8b$", shown)


def test_cards_that_are_not_used_and_disks_that_are_full(monkeypatch, capsys, look):
    card = Card("NVIDIA GeForce RTX 4090", 24 << 30, 23 << 30)
    text = shown(monkeypatch, capsys, replace(look, cards=(card,), uses_cards=False, disk_free_bytes=5)).out
    assert "GPU          NVIDIA GeForce RTX 4090, 23.0 GiB free of 24.0 GiB" in text
    assert "CMAKE_ARGS=-DGGML_CUDA=ON make setup" in text
    assert "the disk has no room" in text
    assert "not used" not in shown(monkeypatch, capsys, replace(look, cards=(card,), uses_cards=True)).out


def test_it_loads_nothing_heavy():
    program = (
        "import sys; from qwenctl.cli.main import run_command_line as run; run([])\n"
        "print([name for name in ('numpy', 'llama_cpp', 'rich', 'jinja2', 'gguf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(("variables", "styled"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_on_a_terminal(variables, styled):
    with Terminal([sys.executable, "-m", "qwenctl"], columns=100, rows=40, env=variables) as terminal:
        assert terminal.wait_exit() == 0
        assert "qwenctl --help" in terminal.text
        assert (b"\x1b[1m" in terminal.raw) is styled
