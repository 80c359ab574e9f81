"""Environments with other programs: exact lists, made once, found again, and no excuse but a missing network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import interop_environment as environments
from scripts.interop_environment import NoNetworkError, NotMadeError, environment_folder, find_python, make_environment


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two lists, one of them in two parts; pip and venv are replaced: see `installed`."""
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "a.txt").write_text("one==1\n")
    (folder / "a.no-deps.txt").write_text("two==2\n")
    (folder / "b.txt").write_text("three==3\n")
    monkeypatch.setattr(environments, "LISTS", folder)
    monkeypatch.setattr(environments.venv, "create", lambda path, with_pip: (path / "bin").mkdir(parents=True))
    return folder


def pip(monkeypatch: pytest.MonkeyPatch, code: int, said: str = "") -> list[list[str]]:
    """Let pip end with `code`; return the list of what it is asked to install."""
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command[command.index("install") + 1 :])
        return subprocess.CompletedProcess(command, code, "", said)

    monkeypatch.setattr(environments.subprocess, "run", run)
    return asked


def test_every_line_of_our_lists_is_a_package_and_a_version() -> None:
    paths = list(environments.LISTS.glob("*.txt"))
    assert paths
    for path in paths:
        for line in path.read_text().splitlines():
            assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line), (path.name, line)


def test_an_environment_is_made_once(lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pip(monkeypatch, 0)
    assert environments.environment_names() == ["a", "b"]
    assert find_python("a", tmp_path) is None
    python = make_environment("a", tmp_path)
    assert asked == [["-r", str(lists / "a.txt")], ["--no-deps", "-r", str(lists / "a.no-deps.txt")]]
    assert make_environment("a", tmp_path) == python == find_python("a", tmp_path)
    assert len(asked) == 2
    assert find_python("b", tmp_path) is None


def test_another_list_is_another_environment(lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, 0)
    make_environment("a", tmp_path)
    (lists / "a.no-deps.txt").write_text("two==2.1\n")
    assert find_python("a", tmp_path) is None


def test_one_that_was_not_finished_is_made_anew(lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip(monkeypatch, 1, "ERROR: two==2 conflicts with one==1")
    with pytest.raises(NotMadeError, match="conflicts") as caught:
        make_environment("a", tmp_path)
    assert not isinstance(caught.value, NoNetworkError)
    assert environment_folder("a", tmp_path).is_dir()
    assert find_python("a", tmp_path) is None
    pip(monkeypatch, 0)
    assert make_environment("a", tmp_path) == find_python("a", tmp_path)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("WARNING: connection broken by 'NewConnectionError'\nERROR: no matching distribution", 0),
        ("ERROR: conflict", 1),
    ],
)
def test_only_a_missing_network_is_an_excuse(
    lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, code: int
) -> None:
    pip(monkeypatch, 1, said)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["interop_environment.py", "--if-possible"])
    assert environments.main() == code
    monkeypatch.setattr(sys, "argv", ["interop_environment.py"])
    assert environments.main() == 1
