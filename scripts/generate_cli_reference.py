"""Write the command reference in README.md from the commands themselves, between the two markers.

python scripts/generate_cli_reference.py            rewrite it
python scripts/generate_cli_reference.py --check    exit 1 with a diff if it is out of date
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

import click

from qwenctl.cli.command_tree import root_context, walk
from qwenctl.cli.main import cli

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- commands:begin -->", "<!-- commands:end -->"


def reference() -> str:
    """Return the whole reference as Markdown."""
    return "\n\n".join(_section(path, command, inner) for path, command, inner in walk(cli, root_context(cli)))


def _section(path: str, command: click.Command, context: click.Context) -> str:
    help_text = command.get_help(context)
    return f"### {path}\n\n```text\n{help_text.rstrip()}\n```"


def with_reference(readme: str, text: str) -> str:
    """Return `readme` with `text` between the markers.

    Raises:
        ValueError: the markers are not there, once and in order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"README.md must hold {BEGIN} and below it {END}, once each")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}"


def main() -> int:
    """Rewrite the file or check it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the reference is out of date")
    arguments = parser.parse_args()
    found = README.read_text(encoding="utf-8")
    wanted = with_reference(found, reference())
    if found == wanted:
        return 0
    if not arguments.check:
        README.write_text(wanted, encoding="utf-8")
        print(f"rewrote the command reference in {README.name}")
        return 0
    diff = difflib.unified_diff(found.splitlines(True), wanted.splitlines(True), "README.md", "what it should be")
    sys.stdout.writelines(diff)
    print("the command reference is out of date: run scripts/generate_cli_reference.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
