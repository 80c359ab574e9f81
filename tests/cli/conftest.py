"""Ways to run the program: in this process, for parsing and errors; as a process, for pipes and signals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from qwenctl.cli.main import run_command_line


class Ran(NamedTuple):
    """What a command line left behind."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def qwenctl() -> Callable[..., Ran]:
    """Return `qwenctl(*words, stdin="")`: run a command line in this process, standard input being a pipe."""

    def run(*words: object, stdin: str | bytes = "") -> Ran:
        with CliRunner().isolation(stdin) as (stdout, stderr, _):
            code = run_command_line([str(word) for word in words])
            sys.stdout.flush()
            sys.stderr.flush()
            return Ran(code, stdout.getvalue().decode(), stderr.getvalue().decode())

    return run


@pytest.fixture
def qwenctl_process() -> Callable[..., Ran]:
    """Return `qwenctl_process(*words, stdin=b"", env={})`: the same as a process of its own."""

    def run(*words: object, stdin: bytes = b"", env: dict[str, str] | None = None) -> Ran:
        command = [sys.executable, "-m", "qwenctl", *map(str, words)]
        done = subprocess.run(command, input=stdin, capture_output=True, check=False, env=os.environ | (env or {}))
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture(scope="module")
def tried_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder that tests of a module share, so that each model is tried once and not in every test."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shared_cache(tried_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use `tried_models` in this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tried_models))
