"""What a slash command is. The table of them is slash_commands.py's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qwenctl.cli.chat.session import ChatSession
from qwenctl.errors import InvalidRequest
from qwenctl.services.typed_path import typed_path


class LeaveChat(Exception):
    """The user wants to go."""


class OtherModel(Exception):
    """The user wants another model to go on."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """One command; `run` gets what follows its name."""

    names: tuple[str, ...]  # the first is the one that is shown
    argument: str  # how /help shows it; one that ends with FILE is completed with the names of files
    summary: str
    run: Callable[[ChatSession, str], None]


def path_argument(name: str, usage: str) -> Path:
    """Return the file that a command was given; `usage` is an example of its use.

    Raises:
        InvalidRequest: it was given none.
    """
    if not name:
        raise InvalidRequest(f"{usage.split(maxsplit=1)[0]} needs the name of a file", usage)
    return typed_path(name)


def shortened(text: str) -> str:
    """Return `text` as one line of at most 100 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:99] + "…"
