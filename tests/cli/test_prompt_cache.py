"""Prompts kept on disk between two commands: used, said, and switched off."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from qwenctl.services.prefix_cache import worth
from tests.cli.terminal import Terminal

DOCUMENT = "The sea is wide and the boats are small. " * 40
FEW = ("--temp", "0", "--max-tokens", "4", "--no-think", "--ctx", "2k")


@pytest.fixture(autouse=True)
def everything_is_worth_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo computes such a prompt sooner than a file is opened."""
    monkeypatch.setattr(worth, "MIN_SAVED_S", 0.0)
    monkeypatch.setattr(worth, "load_pays", lambda *_: True)
    monkeypatch.setattr(worth, "save_pays", lambda *_: True)


@pytest.fixture
def usage(qwenctl, demo_gguf):
    def run(question, *options):
        ran = qwenctl("run", demo_gguf, question, "--json", *FEW, *options, stdin=DOCUMENT)
        assert ran.code == 0, ran.stderr
        return json.loads(ran.stdout)["usage"]

    return run


def files() -> list[Path]:
    return list((Path.home() / "cache" / "qwenctl" / "prefixes").glob("*/*.kv"))


def test_the_second_question_about_a_text_reads_it_from_the_disk(usage, qwenctl, demo_gguf):
    first, second = usage("What is wide?"), usage("What is small?")
    assert first["cached_tokens"] == 0
    assert second["cached_tokens_from_disk"] == second["cached_tokens"] > 0.9 * second["prompt_tokens"]
    assert files()
    stats = qwenctl("run", demo_gguf, "And?", "--stats", *FEW, stdin=DOCUMENT)
    assert "of them from disk" in stats.stderr


def test_switched_off(usage, monkeypatch):
    usage("What is wide?", "--no-prompt-cache")
    monkeypatch.setenv("QWENCTL_PREFIX_CACHE", "off")
    usage("What is wide?")
    assert not files()
    monkeypatch.delenv("QWENCTL_PREFIX_CACHE")
    usage("What is wide?")
    assert usage("What is wide?", "--no-prompt-cache")["cached_tokens"] == 0


def test_a_size(usage, qwenctl, demo_gguf, monkeypatch):
    monkeypatch.setenv("QWENCTL_PREFIX_CACHE", "1 kB")
    usage("What is wide?")
    assert not files()
    monkeypatch.setenv("QWENCTL_PREFIX_CACHE", "lots")
    ran = qwenctl("run", demo_gguf, "Hello", *FEW)
    assert (ran.code, "QWENCTL_PREFIX_CACHE is 'lots'" in ran.stderr) == (2, True)


def test_what_is_kept_is_listed_and_removed(usage, qwenctl):
    usage("What is wide?")
    listed = json.loads(qwenctl("cache", "--json").stdout)
    [prompt] = listed["prompts"]
    assert prompt["tokens"] > worth.MIN_TOKENS
    assert listed["bytes"] == prompt["bytes"] == files()[0].stat().st_size
    assert listed["limit_bytes"] > 0
    assert "sea" not in qwenctl("cache", "ls").stdout
    assert prompt["id"] in qwenctl("cache", "ls").stdout
    assert qwenctl("cache", "rm").code == 2
    assert qwenctl("cache", "rm", "ffff0000").code == 2
    assert qwenctl("cache", "rm", "--model", "no such model").code == 0
    assert qwenctl("cache", "rm", "--all", "--dry-run").code == 0
    assert files()
    removed = qwenctl("cache", "rm", prompt["id"], "--json")
    assert json.loads(removed.stdout)["freed_bytes"] == prompt["bytes"]
    assert not files()
    assert "no prompts are kept" in qwenctl("cache").stderr


def test_an_empty_home_has_no_prompts(qwenctl):
    assert qwenctl("cache").code == 0
    assert json.loads(qwenctl("cache", "ls", "--json").stdout)["prompts"] == []
    assert qwenctl("cache", "rm", "--all").code == 0


def test_a_damaged_file_is_said_to_be_and_can_be_removed(usage, qwenctl):
    usage("What is wide?")
    files()[0].write_bytes(b"nothing of use")
    assert "damaged" in qwenctl("cache").stdout
    qwenctl("cache", "rm", "--all")
    assert not files()


def test_a_chat_that_is_gone_on_with_reads_what_was_said_from_the_disk(qwenctl, demo_gguf):
    first = qwenctl("chat", demo_gguf, *FEW, stdin=f"{DOCUMENT}\n/stats\n")
    assert "all computed" in first.stderr
    again = qwenctl("chat", "--continue", *FEW, stdin="And what is small?\n/stats\n")
    assert again.code == 0
    n_prompt, n_disk = re.search(r"prompt +(\d+) tokens, (\d+) of them from disk", again.stderr).groups()
    assert int(n_disk) > 0.9 * int(n_prompt)


def test_ctrl_c_while_a_long_prompt_is_read_does_not_lose_what_has_been_read(qwenctl, demo_gguf, tmp_path):
    """By the true clock, in a process of its own: 15,000 tokens take the demo some seconds."""
    text = tmp_path / "long.txt"
    text.write_text("".join(f"Entry {n}: station {n * 7919 % 1000} read {n * 31 % 97}.\n" for n in range(1000)))
    command = [sys.executable, "-m", "qwenctl", "run", str(demo_gguf), "Why?", "-f", str(text), "--ctx", "32k"]
    with Terminal([*command, "--threads", "1"]) as terminal:
        terminal.wait_for(" left")  # some of it has been read, and the rest will take a while
        terminal.send("\x03")
        assert terminal.wait_exit() == 130
        assert "reading the prompt" not in terminal.text
    [prompt] = json.loads(qwenctl("cache", "--json").stdout)["prompts"]
    assert prompt["tokens"] >= 512
