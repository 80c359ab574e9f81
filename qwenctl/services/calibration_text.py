"""Texts that a model reads so that statistics can be gathered: those that come with the program, or a user's files.

    NAME.txt      plain text
    NAME.jsonl    conversations, one a line: {"messages": [{"role", "content", "reasoning_content"}, …], "tools": […]},
                  written with the model's own chat template

The shipped ones (qwenctl/calibration, whose README says where they come from) are cut into pieces of a paragraph or
more and mixed, so that the beginning holds something of everything. A user's files are read as they are, one after the
other. Knows nothing of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import qwenctl
from qwenctl.core import Message
from qwenctl.errors import InvalidRequest

SHIPPED_FOLDER = Path(qwenctl.__file__).resolve().parent / "calibration"
SHIPPED_NAME = "qwenctl calibration text"
_PIECE_CHARS = 1500
_MOST_FILE_BYTES = 256 << 20
_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation, and the tools that it may use."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def plain(self) -> str:
        """The same without a template."""
        return "\n\n".join(part for one in self.messages for part in (one.reasoning, one.content) if part)

    @property
    def question(self) -> tuple[Message, ...]:
        """What comes before the first answer."""
        end = next((i for i, one in enumerate(self.messages) if one.role == "assistant"), len(self.messages))
        return self.messages[:end]


Piece: TypeAlias = str | Talk


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """What is to be read, in order, and what to call it."""

    names: tuple[str, ...]
    pieces: tuple[Piece, ...]


def shipped_text(folder: Path = SHIPPED_FOLDER) -> CalibrationText:
    """Return the texts that come with the program, mixed.

    Raises:
        InvalidRequest: they are not there.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix in (".txt", ".jsonl"))
    if not files:
        raise InvalidRequest(f"no calibration text in {folder}", "name a text file")
    sources = [_read_talks(path) if path.suffix == ".jsonl" else cut_text(_read(path)) for path in files]
    return CalibrationText((SHIPPED_NAME,), mixed(sources))


def read_texts(paths: Sequence[Path]) -> CalibrationText:
    """Return a user's files.

    Raises:
        InvalidRequest: one cannot be read, is no text, or no conversations.
    """
    pieces: list[Piece] = []
    for path in paths:
        pieces += _read_talks(path) if path.suffix == ".jsonl" else [_read(path)]
    return CalibrationText(tuple(path.name for path in paths), tuple(pieces))


def cut_text(text: str) -> list[Piece]:
    """Cut at blank lines into pieces of 1,500 characters or a little more; joined by blank lines they are the text."""
    pieces: list[Piece] = []
    held: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        held.append(paragraph)
        if sum(len(one) for one in held) >= _PIECE_CHARS:
            pieces.append("\n\n".join(held))
            held = []
    return [*pieces, "\n\n".join(held)] if held else pieces


def mixed(sources: Sequence[Sequence[Piece]]) -> tuple[Piece, ...]:
    """Return all pieces, those of each source in their order and spread evenly over the whole."""
    places = [((i + 0.5) / len(pieces), number, i) for number, pieces in enumerate(sources) for i in range(len(pieces))]
    return tuple(sources[number][i] for _, number, i in sorted(places))


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_FILE_BYTES:
            raise InvalidRequest(f"{path} is larger than {_MOST_FILE_BYTES >> 20} MiB", "a part of it will do")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not UTF-8 text: byte {error.start + 1}") from error


def _read_talks(path: Path) -> list[Piece]:
    lines = [line for line in enumerate(_read(path).splitlines(), 1) if line[1].strip()]
    if not lines:
        raise InvalidRequest(f"{path} holds no conversations")
    return [_talk(path, number, line) for number, line in lines]


def _talk(path: Path, number: int, line: str) -> Talk:
    try:
        content = json.loads(line)
        tools = tuple(content.get("tools", ()))
        return Talk(tuple(_message(item) for item in content["messages"]), tools)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidRequest(
            f"line {number} of {path} is no conversation", 'write {"messages": [{"role": "user", "content": "…"}, …]}'
        ) from error


def _message(item: Mapping[str, Any]) -> Message:
    role, content, reasoning = item["role"], item["content"], item.get("reasoning_content")
    if role not in _ROLES or not isinstance(content, str) or not isinstance(reasoning, str | None):
        raise ValueError
    extra = {key: value for key, value in item.items() if key not in ("role", "content", "reasoning_content")}
    return Message(role, content, reasoning, extra)
