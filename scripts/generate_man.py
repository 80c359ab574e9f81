"""Write the man page qwenctl.1 from the commands themselves.

    python scripts/generate_man.py build/qwenctl.1      or a folder: ~/.local/share/man/man1

roff with the macros of man(7). What has to be escaped: backslashes, hyphens that are to be typed, and dots and quotes
at the beginning of a line (groff(7)).
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import click

from qwenctl import __version__
from qwenctl.cli.command import Command
from qwenctl.cli.command_tree import root_context, walk
from qwenctl.cli.help_topics import ENVIRONMENT, EXIT_CODES, FILES
from qwenctl.cli.main import cli

PAGE = "qwenctl.1"


def page() -> str:
    """Return the whole page."""
    context = root_context(cli)
    lines = [f'.TH QWENCTL 1 "" "qwenctl {__version__}" "User Commands"', ".SH NAME"]
    lines.append(f"qwenctl \\- {roff(cli.get_short_help_str(200).rstrip('.'))}")
    lines += [".SH SYNOPSIS", ".B qwenctl", "[\\fICOMMAND\\fR] [\\fIOPTIONS\\fR]", ".SH DESCRIPTION"]
    lines += [*paragraphs(cli.help or ""), ".SH COMMANDS"]
    for path, command, inner in walk(cli, context):
        lines += command_lines(path, command, inner)
    for title, rows in (("EXIT STATUS", EXIT_CODES), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        lines.append(f".SH {title}")
        for term, text in rows:
            lines += [".TP", f".B {quoted(term)}", roff(text)]
    return "\n".join(lines) + "\n"


def command_lines(path: str, command: click.Command, context: click.Context) -> Iterator[str]:
    """Yield the lines of one command: usage, text, options, examples."""
    yield f".SS {quoted(path)}"
    yield f".B {roff(path)}"
    yield roff(" ".join(command.collect_usage_pieces(context)))
    yield ".PP"
    yield from paragraphs(command.help or "")
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None and "--help" not in record[0]:
            yield from (".TP", f".B {quoted(record[0])}", roff(record[1]))
    if isinstance(command, Command) and command.examples:
        yield from (".PP", "Examples:", ".PP", ".nf", ".RS")
        yield from (roff(example) for example in command.examples)
        yield from (".RE", ".fi")


def paragraphs(text: str) -> Iterator[str]:
    """Yield a docstring's paragraphs; what follows \\b keeps its lines, as Click has it."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(text))):
        if number:
            yield ".PP"
        if paragraph.startswith("\b"):
            yield from (".nf", *(roff(line) for line in paragraph.lstrip("\b\n").splitlines()), ".fi")
        else:
            yield roff(" ".join(paragraph.split()))


def roff(text: str) -> str:
    """Return `text` as roff shows it again."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti")
    return f"\\&{text}" if text.startswith(".") else text


def quoted(text: str) -> str:
    """Return `text` as one argument of a macro."""
    return '"' + roff(text).replace('"', '""') + '"'


def main() -> None:
    """Write the page to where the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, help="a file, or the folder of section 1")
    target: Path = parser.parse_args().target.expanduser()
    if target.suffix != ".1":
        target.mkdir(parents=True, exist_ok=True)
        target /= PAGE
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(), encoding="utf-8")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
