"""The config file: sections, lines, and what is said of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from qwenctl.errors import InvalidRequest
from qwenctl.services.config_file import ConfigValue, read_config


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_no_file_says_nothing(path: Path) -> None:
    assert (read_config(path).sections, read_config(path).presets) == ({}, {})
    assert read_config(path / "below" / "a" / "file").sections == {}


def test_values_know_their_lines(path: Path) -> None:
    path.write_text(
        '# mine\n[defaults]\nctx = "32k"  # here\nmax_tokens=5\n\n[presets."a b"]\nsystem = """\ntwo\n"""\n'
    )
    found = read_config(path)
    assert found.sections == {
        "defaults": {"ctx": ConfigValue("32k", f"{path}:3"), "max-tokens": ConfigValue(5, f"{path}:4")}
    }
    assert found.presets == {"a b": {"system": ConfigValue("two\n", f"{path}:7")}}


def test_other_ways_to_write_sections(path: Path) -> None:
    path.write_text("run = {ctx = 1}\n[presets]\nx = {temp = 0}\n")
    found = read_config(path)
    assert found.sections["run"]["ctx"] == ConfigValue(1, f"{path}:1")
    assert found.presets["x"]["temp"].place.startswith(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ctx = 5\n", ":1: ctx stands above the first section"),
        ("[run]\nctx = \n", "at line 2"),
        ("[run]\nctx = 1\nctx = 2\n", "at line 3|overwrite"),
        ("[presets]\nx = 5\n", ":2: the preset x is no section"),
        ("[run.more]\nx = 5\n", r":1: \[run.more\] is no section"),
        ("[" * 3000, "config.toml: "),
    ],
)
def test_mistakes_name_the_line(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_config(path)
    assert caught.value.hint


def test_files_that_are_none(path: Path) -> None:
    path.write_bytes(b"[run]\n\xff")
    with pytest.raises(InvalidRequest, match="not UTF-8"):
        read_config(path)
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(InvalidRequest, match="larger than 1 MiB"):
        read_config(path)
    with pytest.raises(InvalidRequest, match="Is a directory"):
        read_config(path.parent)
