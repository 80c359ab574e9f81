"""The rules of the pre-flight are needed: these files kill a process in which llama.cpp loads them.

And they are no tighter than they must be: tiny models of every architecture we check pass, load and decode.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quant.gguf_check import check_model
from quant.gguf_check_tensors import CHECKED_ARCHITECTURES
from quant.gguf_read import read_gguf
from tests.attacks.malformed_gguf import ABORTS_LLAMA_CPP, CASES
from tests.tiny_gguf import TinyGguf

_CHILD = Path(__file__).with_name("llama_child.py")
_ABORTS = [case for case in CASES if case.name in ABORTS_LLAMA_CPP]


def _exit_status(path: Path) -> int:
    command = [sys.executable, str(_CHILD), str(path)]
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    return subprocess.run(command, capture_output=True, check=False, env=environment, timeout=60).returncode


@pytest.mark.parametrize("architecture", CHECKED_ARCHITECTURES)
def test_valid_models_pass_load_and_decode(architecture: str, tmp_path: Path) -> None:
    path = TinyGguf.of(architecture).write(tmp_path / "model.gguf")
    check_model(read_gguf(path))
    assert _exit_status(path) == 0


@pytest.mark.parametrize("name", ["token twice", "router in F64"])
def test_llama_dies(name: str, tmp_path: Path) -> None:
    (case,) = (case for case in CASES if case.name == name)
    assert _exit_status(case.make(tmp_path)) < 0


@pytest.mark.slow
def test_llama_dies_of_each(tmp_path: Path) -> None:
    """Fails when a newer llama.cpp has learnt to refuse one of them: then the rule may go, or stay for its message."""
    survived = []
    for number, case in enumerate(_ABORTS):
        folder = tmp_path / str(number)
        folder.mkdir()
        if _exit_status(case.make(folder)) >= 0:
            survived.append(case.name)
    assert not survived
