"""Files in a chat: the command that puts them before the next question, and names of files in the question itself."""

from __future__ import annotations

import shlex

from qwenctl.cli.chat.session import ChatSession
from qwenctl.cli.chat.slash_command import SlashCommand, path_argument
from qwenctl.errors import InvalidRequest
from qwenctl.services.attached_files import read_attachments
from qwenctl.services.typed_path import is_file, is_there, typed_path

_SIGN = "@"
_AROUND = "\"'`()[]{}<>,.;:?!"  # what may stand around the name in a sentence


def attach_mentioned_files(session: ChatSession, question: str) -> None:
    """Put the files before the question that it names: @notes.md. What is no file stays a word.

    Raises:
        InvalidRequest: a file is no text.
    """
    names = [word.strip(_AROUND)[1:] for word in question.split() if word.strip(_AROUND).startswith(_SIGN)]
    files = [name for name in names if name and is_file(typed_path(name))]
    session.attach(read_attachments(files, session.screen.note))


def _file(session: ChatSession, text: str) -> None:
    path = path_argument(text, "/file notes.md, or /file src/*.py")
    try:
        patterns = [text] if is_there(path) else shlex.split(text)
    except ValueError as error:
        raise InvalidRequest(f"{text}: a quotation mark is missing", "/file 'my notes.md' src/*.py") from error
    session.attach(read_attachments(patterns, session.screen.note))


FILE_COMMANDS = (
    SlashCommand(("/file", "/read"), "FILE", "put the text of files before the next question; patterns, too", _file),
)
