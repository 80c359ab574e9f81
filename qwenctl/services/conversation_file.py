"""Conversations as JSON files:

    {"format": "qwenctl-conversation", "version": 1, "system": …, "thinking": …, "exchanges": …}

The values are conversation_record.py's. A file under its own name is always complete, and readable by its owner only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.services.conversation import Conversation
from qwenctl.services.conversation_record import conversation_record, json_text, read_conversation
from qwenctl.services.private_file import replace_private
from qwenctl.services.typed_path import is_there

_FORMAT = "qwenctl-conversation"
_VERSION = 1
_MAX_BYTES = 64 << 20


def save_conversation(conversation: Conversation, path: Path) -> None:
    """Write `conversation`, replacing a conversation that has the name already.

    Raises:
        InvalidRequest: `path` is something else, which would be lost.
        QwenctlError: it cannot be written.
    """
    if is_there(path):
        _read(path)
    try:
        replace_private(path, json_text(conversation_document(conversation), indent=1).encode() + b"\n")
    except OSError as error:
        raise QwenctlError(f"cannot write {path}: {error.strerror}") from error


def conversation_document(conversation: Conversation) -> dict[str, Any]:
    """Return what a file of `conversation` holds, as JSON values."""
    return {"format": _FORMAT, "version": _VERSION} | conversation_record(conversation)


def load_conversation(path: Path) -> Conversation:
    """Read what `save_conversation` wrote.

    Raises:
        InvalidRequest: no such file, or not a conversation; the message says why in one line.
    """
    content = _read(path)
    try:
        return read_conversation(content)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(f"{path} is a damaged conversation: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise InvalidRequest(f"{path} is larger than {_MAX_BYTES >> 20} MiB, too large for a conversation")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InvalidRequest(f"{path} is not a saved conversation", "/save writes them")
    if content.get("version") != _VERSION:
        raise InvalidRequest(f"{path} has version {content.get('version')!r}, this program reads {_VERSION}")
    return content
