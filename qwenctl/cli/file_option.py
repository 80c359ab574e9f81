"""`-f/--file`: files whose text stands before the question; what the shell made of a pattern counts as several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from qwenctl.services.split_files import SUFFIX
from qwenctl.services.typed_path import is_file

F = TypeVar("F", bound=Callable[..., Any])


class FileOption(click.Option):
    """An option that takes several files after one name, if the shell has put them there: -f src/*.py."""

    def spread(self, words: Sequence[str]) -> list[str]:
        """Return the words of a command line with the option's name before each of its files.

        The words behind the first file belong to it as long as they are files, and no models.
        """
        spread: list[str] = []
        value_comes = in_files = False
        for position, word in enumerate(words):
            if word == "--":
                return [*spread, *words[position:]]
            if value_comes:
                value_comes, in_files = False, True
            elif word in self.opts:
                value_comes, in_files = True, False
            elif in_files and not word.startswith("-") and is_file(Path(word)) and not word.endswith(SUFFIX):
                spread.append(self.opts[0])
            else:
                in_files = False
            spread.append(word)
        return spread


def file_option(function: F) -> F:
    """Add `-f/--file`; `files` is a tuple of paths and globs."""
    return click.option(
        "-f",
        "--file",
        "files",
        cls=FileOption,
        multiple=True,
        metavar="PATH|GLOB",
        help="Put the text of files before the question: -f report.md -f 'src/**/*.py'; may be repeated.",
    )(function)
