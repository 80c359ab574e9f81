"""The command table, the error boundary and what the process answers to the shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from quant.errors import DamagedFile, GgufError, NotEnoughDisk, OutputExists, QuantError
from qwenctl.cli import errors
from qwenctl.cli.errors import OutputClosed, exit_code_of, report
from qwenctl.cli.main import COMMANDS
from qwenctl.cli.next_steps import NEXT_STEPS, next_step
from qwenctl.errors import DoesNotFit, ExitCode, InvalidRequest, PromptTooLong, QwenctlError


def test_the_program_prints_its_help(qwenctl):
    ran = qwenctl("--help")
    assert (ran.code, ran.stderr) == (0, "")
    assert ran.stdout.startswith("Usage: qwenctl")
    assert all(entry.summary in ran.stdout for entry in COMMANDS.values())


def test_help_imports_no_command_and_nothing_heavy():
    code = (
        "import sys; from qwenctl.cli.main import run_command_line; run_command_line(['--help']); print(*sys.modules)"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "qwenctl.cli.main" in modules
    heavy = {"numpy", "llama_cpp", "rich", "jinja2", "prompt_toolkit", "gguf", "huggingface_hub", "asyncio"}
    assert not [name for name in modules if name in heavy or name.startswith("qwenctl.cli.commands.")]


def test_version(qwenctl):
    assert qwenctl("--version").stdout.startswith("qwenctl 0.")


def test_unknown_command_is_a_usage_error_with_the_nearest_name(qwenctl):
    ran = qwenctl("modles")
    assert (ran.code, ran.stdout) == (2, "")
    assert (
        ran.stderr
        == "error: no command 'modles'; did you mean 'models'?\nhint: qwenctl --help shows what is possible\n"
    )


def test_unknown_option_is_a_usage_error(qwenctl):
    ran = qwenctl("models", "--colour")
    assert ran.code == 2
    assert "--colour" in ran.stderr
    assert "qwenctl models --help" in ran.stderr


def test_bad_variable_is_a_usage_error_that_names_it(qwenctl, monkeypatch):
    monkeypatch.setenv("QWENCTL_THREADS", "many")
    ran = qwenctl("models")
    assert ran.code == 2
    assert ran.stderr.startswith("error: QWENCTL_THREADS is 'many'\nhint: ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("x"), 2),
        (DoesNotFit("x"), 3),
        (PromptTooLong(9, 8), 1),
        (QwenctlError("x"), 1),
        (NotEnoughDisk(Path("x"), 2, 1), 3),
        (OutputExists("x"), 1),
        (GgufError(Path("x"), "y"), 1),
        (DamagedFile(Path("x"), ("a",)), 1),
        (click.UsageError("x"), 2),
        (click.ClickException("x"), 1),
        (PermissionError(13, "Permission denied", "out.gguf"), 1),
        (OSError(28, "No space left on device"), 1),
        (MemoryError(), 3),
    ],
)
def test_exit_codes(error, code, capsys):
    assert report(error, debug=False, plain=False) == code
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ")
    assert "Traceback" not in stderr
    assert len(stderr.splitlines()) == 2
    assert stderr.splitlines()[1].startswith("hint: ")


def test_every_error_has_a_next_step(qwenctl):
    def tree(root):
        return [root, *(found for child in root.__subclasses__() for found in tree(child))]

    for kind in tree(QwenctlError) + tree(QuantError):
        step = next(step for known, step in NEXT_STEPS if issubclass(kind, known))
        assert re.search(r"qwenctl|\{command\}|--\w+|make setup|HF_TOKEN|same command", step), kind
    ran = qwenctl("eval", "ppl", "--ctx", "2", "x")
    assert ran.stderr.splitlines()[-1].startswith("hint: ")
    for error, hint in (
        (InvalidRequest("x"), "hint: qwenctl run --help shows what is possible"),
        (OSError(28, "No space left on device"), "hint: qwenctl models prune makes room"),
        (PermissionError(13, "Permission denied", "out.gguf"), "hint: name a file or folder that you may use"),
    ):
        assert f"hint: {next_step(error, 'qwenctl run')}".startswith(hint)


def test_every_class_of_both_trees_has_an_exit_code():
    def tree(root):
        return [root, *(found for child in root.__subclasses__() for found in tree(child))]

    for kind in tree(QwenctlError) + tree(QuantError):
        assert any(issubclass(kind, known) for known, _ in errors.EXIT_CODES)
    for kind in tree(QwenctlError):  # the classes themselves and the table must not disagree
        assert kind.exit_code == next(code for known, code in errors.EXIT_CODES if issubclass(kind, known))


def test_a_bug_shows_its_traceback(capsys):
    assert exit_code_of(ValueError("x")) is None
    assert exit_code_of(OSError(9, "Bad file descriptor")) is None
    assert report(ValueError("a bug"), debug=False, plain=False) == ExitCode.FAILED
    assert "ValueError: a bug" in capsys.readouterr().err


def test_debug_shows_the_traceback_of_known_errors(qwenctl, monkeypatch):
    monkeypatch.setenv("QWENCTL_DEBUG", "1")
    ran = qwenctl("nothing")
    assert ran.code == 2
    assert "Traceback" in ran.stderr
    assert "error: no command 'nothing'" in ran.stderr


def test_closed_output_is_silent(capsys):
    assert report(OutputClosed(), debug=False, plain=False) == ExitCode.FAILED
    assert capsys.readouterr().err == ""


def test_messages_stay_on_one_line_and_carry_no_escapes(capsys):
    report(QwenctlError("name\x1b[31m\nof a file", "do\rthis"), debug=False, plain=True)
    assert capsys.readouterr().err == "error: name [31m of a file\nhint: do this\n"


def test_reader_that_goes_away_leaves_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "qwenctl", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 1
    assert stderr == b""


def test_closed_standard_streams_are_no_accident(home):
    """A closed descriptor 1 would be given to the next file that is opened."""
    done = subprocess.run(
        ["sh", "-c", f"exec {sys.executable} -m qwenctl models --json >&- <&-"], capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_full_disk_on_standard_output_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "qwenctl", "models", "--json"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "error: cannot write to standard output: No space left on device",
        "hint: make room there, or send it elsewhere",
    ]


def test_any_text_can_be_written_in_any_locale(home):
    models = home / "data" / "qwenctl" / "models"
    models.mkdir(parents=True)
    for name in ("中文.gguf".encode(), b"caf\xe9.gguf"):
        (models / os.fsdecode(name)).write_bytes(b"")
    environ = os.environ | {"PYTHONIOENCODING": "ascii"}

    def run(*words):
        return subprocess.run([sys.executable, "-m", "qwenctl", *words], capture_output=True, env=environ, check=False)

    table, document = run("models"), run("models", "--json")
    assert (table.returncode, document.returncode) == (0, 0)
    assert "\n中文 " in table.stdout.decode()
    assert "\ncaf� " in table.stdout.decode()
    assert {model["name"] for model in json.loads(document.stdout)} == {"中文", os.fsdecode(b"caf\xe9")}
