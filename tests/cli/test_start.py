"""Ctrl-C before the program has been imported: the same end as later on."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from qwenctl.errors import ExitCode

ROOT = Path(__file__).resolve().parents[2]

# As the script that pip makes starts it, with a Ctrl-C at the moment when a module is looked for.
PROGRAM = """
import sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

from {start} import {function}
sys.meta_path.insert(0, Interrupting())
sys.argv[1:] = ["models"]
sys.exit({function}())
"""


def _entry_point() -> tuple[str, str]:
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["qwenctl"]
    start, function = script.split(":")
    return start, function


@pytest.mark.parametrize(
    "module",
    ["qwenctl.cli.main", "click", "qwenctl.errors", "qwenctl.settings", "qwenctl.cli.commands.models", "quant"],
)
def test_an_interrupted_import_is_no_traceback(module: str) -> None:
    start, function = _entry_point()
    program = PROGRAM.format(module=module, start=start, function=function)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (run.returncode, run.stdout, run.stderr.split()) == (ExitCode.INTERRUPTED, "", ["interrupted"])


def test_the_entry_point_imports_nothing_of_the_program() -> None:
    start, function = _entry_point()
    assert callable(getattr(import_module(start), function))
    program = f"import sys; import {start}; print(*(name for name in sys.modules if name.startswith('qwenctl')))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split() == ["qwenctl", start]
