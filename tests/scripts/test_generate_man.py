"""The man page: every command and option is in it, and groff has nothing to say against it."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys

import click
import pytest

from qwenctl.cli.command_tree import root_context, walk
from qwenctl.cli.main import cli
from tests.conftest import ROOT

SCRIPT = ROOT / "scripts" / "generate_man.py"
spec = importlib.util.spec_from_file_location("generate_man", SCRIPT)
generator = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generator)


@pytest.fixture(scope="module")
def page():
    return generator.page()


def groff(page, *words):
    return subprocess.run(
        ["groff", "-man", "-ww", "-Kutf8", *words], input=page, capture_output=True, text=True, check=False
    )


def test_every_command_and_option_is_there(page):
    plain = page.replace("\\-", "-")
    for path, command, _ in walk(cli, root_context(cli)):
        assert f'.SS "{path}"' in plain
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[-1] in plain, (path, parameter.opts)
    for title in ("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "EXIT STATUS", "ENVIRONMENT", "FILES"):
        assert f".SH {title}\n" in page


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_has_no_complaint(page):
    done = groff(page, "-z")
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", groff(page, "-Tutf8").stdout)
    assert "qwenctl sessions export" in shown
    assert re.search(r"--kv-type TYPE", shown)
    assert "'{\"" in shown or "jq -c '{prompt" in shown


def test_what_roff_would_take_for_its_own():
    assert generator.roff(".x -y \\z 'q'") == "\\&.x \\-y \\ez \\(aqq\\(aq"
    assert generator.quoted('say "hi"') == '"say ""hi"""'
    assert list(generator.paragraphs("One\n  two.\n\n\b\n  a  b\n  c\n")) == [
        "One two.", ".PP", ".nf", "  a  b", "  c", ".fi",
    ]  # fmt: skip


def test_it_is_written_where_man_looks(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "man1")],
        capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "man1" / "qwenctl.1").read_text().startswith(".TH QWENCTL 1")
