"""A terminal whose encoding is not UTF-8 still gets every line, and each at its width."""

from __future__ import annotations

import sys

import pytest

from qwenctl.cli.look_alikes import NAME, register_look_alikes
from tests.cli.terminal import Terminal


def test_lines_keep_their_width():
    register_look_alikes()
    text = "▸ thought · 中文 e\u0301 \N{ROCKET} ─── …"
    assert text.encode("ascii", NAME) == b"> thought - ???? e ?? --- ."
    assert "é ▸".encode("latin-1", NAME) == b"\xe9 >"


@pytest.mark.usefixtures("shared_cache")
def test_a_chat_on_an_ascii_terminal(demo_gguf, tmp_path):
    grammar = tmp_path / "list.gbnf"
    grammar.write_text('root ::= "- caf\u00e9\\n\\n| a | b |\\n|---|---|\\n| 1 | \u4e2d |\\n"')
    command = [sys.executable, "-m", "qwenctl", "chat", str(demo_gguf), "--no-think", "--grammar", str(grammar)]
    with Terminal([*command, "--threads", "1"], env={"PYTHONIOENCODING": "ascii"}) as terminal:
        terminal.wait_for("tokens of context")
        terminal.send("Hello\r")
        terminal.wait_for("%)")
        terminal.send("\x04")
        assert terminal.wait_exit() == 0
        assert " * caf?" in terminal.text
        assert " 1  ??" in terminal.text
        assert "-----" in terminal.text
