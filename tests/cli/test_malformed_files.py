"""Malformed weights through the commands a user types: one line and a hint on stderr, exit code 1, no dead process.

Every case runs in this very process, so a case that killed it would end the test run.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attacks.case import Case
from tests.attacks.malformed_gguf import CASES as GGUF_CASES
from tests.attacks.malformed_safetensors import CASES as SAFETENSORS_CASES

NOT_A_FILE = ("a folder", "a broken link")  # said by whoever looks for the file, in words of its own
SIDE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


def check_refusal(ran: object, case: Case) -> None:
    code, stdout, stderr = ran  # type: ignore[misc]
    assert code == 1, stderr
    assert stdout == ""
    lines = stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert case.fragment in lines[0] or case.name in NOT_A_FILE
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: "))


@pytest.mark.parametrize("case", GGUF_CASES, ids=str)
def test_run_refuses_a_malformed_gguf(case: Case, tmp_path: Path, qwenctl: Callable[..., object]) -> None:
    check_refusal(qwenctl("run", case.make(tmp_path), "Hello"), case)


@pytest.mark.parametrize("case", SAFETENSORS_CASES, ids=str)
def test_convert_refuses_malformed_safetensors(
    case: Case, demo_folder: Path, tmp_path: Path, qwenctl: Callable[..., object]
) -> None:
    for name in SIDE_FILES:
        shutil.copy(demo_folder / name, tmp_path)
    case.make(tmp_path).rename(tmp_path / "model.safetensors")
    out = tmp_path / "out.gguf"
    check_refusal(qwenctl("convert", tmp_path, out), case)
    assert not out.exists()


def test_there_are_enough_cases() -> None:
    assert len(GGUF_CASES) >= 30
    assert len(SAFETENSORS_CASES) >= 30
