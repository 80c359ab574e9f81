"""`qwenctl bench` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from qwenctl.cli.main import run_command_line


def test_a_model_by_itself(demo_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "run", str(demo_gguf), "--prompts", "64,128", "--answer", "6", "--rounds", "1", "--threads", "1"]
    assert run_command_line([*words, "--json", "--plot", str(tmp_path / "speed.svg")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [64 <= row["n_prompt_tokens"] <= 160 for row in document["rows"]] == [True, True]
    assert all(row["prefill_tokens_per_s"] > 0 and row["first_token_s"] > 0 for row in document["rows"])
    ElementTree.parse(tmp_path / "speed.svg")


def test_a_server_that_it_starts(
    demo_gguf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWENCTL_API_KEY", "of the user's own servers")
    words = ["bench", "serve", str(demo_gguf), "--concurrency", "1,3", "--answer", "8", "--requests", "2"]
    words += ["--threads", "1", "--ctx", "256"]
    assert run_command_line([*words, "--plot", str(tmp_path / "curve.svg")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["AT", "A", "TIME"]
    assert [line.split()[:2] for line in lines[1:]] == [["1", "4"], ["3", "6"]]
    ElementTree.parse(tmp_path / "curve.svg")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serve", "x", "--url", "http://127.0.0.1:9"], "leave the others out"),
        (["serve", "--model-name", "x"], "name it with --url"),
        (["serve", "--api-key", "x"], "name it with --url"),
        (["serve", "--url", "https://127.0.0.1:9"], "plain HTTP"),
        (["serve", "--concurrency", "0,4"], "between 1 and"),
        (["run", "--prompts", "a"], "no list of numbers"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["bench", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["bench", "serve", "--url", "http://127.0.0.1:9", "--concurrency", "1"]) == 1
    assert "nobody answers at 127.0.0.1:9" in capsys.readouterr().err


def test_a_prompt_that_does_not_fit_has_a_hint(demo_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["bench", "run", str(demo_gguf), "--ctx", "64", "--prompts", "300"]) == 1
    assert "larger --ctx" in capsys.readouterr().err
