"""Every command can be learnt from its help: a summary, help for each option, examples that parse."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys

import click
import pytest

from qwenctl import settings
from qwenctl.cli.command import Command
from qwenctl.cli.command_tree import root_context, walk
from qwenctl.cli.main import COMMANDS, cli
from qwenctl.errors import ExitCode
from tests.conftest import ROOT

SCRIPT = ROOT / "scripts" / "generate_cli_reference.py"
spec = importlib.util.spec_from_file_location("generate_cli_reference", SCRIPT)
generator = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generator)


@pytest.fixture(scope="module")
def reference():
    return generator.reference()


def command_named(name):
    command = cli.get_command(click.Context(cli), name)
    assert isinstance(command, Command)
    return command


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says(name):
    command = command_named(name)
    assert command.name == name
    assert command.get_short_help_str(200) == COMMANDS[name].summary


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name):
    for parameter in command_named(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"
            assert parameter.help[0].isupper(), f"{name} {parameter.opts[0]}"
            assert parameter.help.rstrip("]").endswith(".") or "[default" in parameter.help, (
                f"{name} {parameter.opts[0]}"
            )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_parse(name, reference):
    command = command_named(name)
    assert command.examples
    for example in command.examples:
        assert example in reference
        for part in example.split("  #")[0].split("|"):
            words = shlex.split(part)
            if words[:2] == ["qwenctl", name]:
                arguments = words[2:]
                if ">" in arguments:
                    arguments = arguments[: arguments.index(">")]
                with click.Context(command, resilient_parsing=True) as context:
                    command.parse_args(context, arguments)
                break
        else:
            pytest.fail(f"{example!r} does not call qwenctl {name}")


def test_commands_below_commands_have_help_and_examples_too():
    for path, command, _ in walk(cli, root_context(cli)):
        assert isinstance(command, Command), path
        assert command.examples, path
        for example in command.examples:
            assert path in example or "|" in example or "$(" in example, f"{example!r} does not call {path}"
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (path, parameter.opts)


def test_the_program_says_what_holds_for_all_commands(qwenctl):
    text = qwenctl("--help").stdout
    for title in ("Examples:", "Exit codes:", "Environment:", "Files:"):
        assert f"\n{title}\n" in text
    for code in ExitCode:
        assert re.search(rf"(?m)^  {int(code)} +\w", text), code
    ours = [name for name in settings._VARIABLES if name.startswith("QWENCTL_")]
    assert [name for name in ours if name not in text] == []


def test_every_command_has_json_output():
    for path, command, _ in walk(cli, root_context(cli)):
        only_a_group = isinstance(command, click.Group) and not command.invoke_without_command
        if not only_a_group and path not in ("qwenctl chat", "qwenctl sessions export"):
            assert "--json" in [opt for parameter in command.params for opt in parameter.opts], path


def test_the_readme_holds_the_reference():
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_check_fails_when_the_reference_is_old():
    readme = f"# Title\n{generator.BEGIN}\nold\n{generator.END}\nend\n"
    assert generator.with_reference(readme, "new") == f"# Title\n{generator.BEGIN}\n\nnew\n\n{generator.END}\nend\n"
    with pytest.raises(ValueError, match="commands:begin"):
        generator.with_reference("# Title\n", "new")
