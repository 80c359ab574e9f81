"""Conversations as JSON files:

    {"format": "qwenctl-conversation", "version": 1, "system": …, "thinking": …,
     "exchanges": [{"user": …, "answer": …, "reasoning": …, "partial": …}, …]}

A file under its own name is always complete: written beside it, synced, renamed. Readable by its owner only.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from quant.durable_files import DurableFiles
from qwenctl.errors import InvalidRequest, QwenctlError
from qwenctl.services.conversation import Conversation, Exchange

_FORMAT = "qwenctl-conversation"
_VERSION = 1
_MAX_BYTES = 64 << 20
_TYPES: dict[str, tuple[type, ...]] = {
    "user": (str,),
    "answer": (str, type(None)),
    "reasoning": (str, type(None)),
    "partial": (bool,),
}


def save_conversation(conversation: Conversation, path: Path) -> None:
    """Write `conversation`, replacing a conversation that has the name already.

    Raises:
        InvalidRequest: `path` is something else, which would be lost.
        QwenctlError: it cannot be written.
    """
    if path.exists():
        _read(path)
    head = {"format": _FORMAT, "version": _VERSION}
    text = json.dumps(head | asdict(conversation), ensure_ascii=False, indent=1)
    data = text.encode("utf-8", "backslashreplace")  # half a surrogate pair becomes JSON's own escape
    try:
        _replace(path, data + b"\n")
    except OSError as error:
        raise QwenctlError(f"cannot write {path}: {error.strerror}") from error


def load_conversation(path: Path) -> Conversation:
    """Read what `save_conversation` wrote.

    Raises:
        InvalidRequest: no such file, or not a conversation; the message says why in one line.
    """
    content = _read(path)
    try:
        return _conversation(content)
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


def _conversation(content: dict[str, Any]) -> Conversation:
    system, thinking, exchanges = content["system"], content["thinking"], content["exchanges"]
    if not isinstance(system, str | None) or not isinstance(thinking, bool | None) or not isinstance(exchanges, list):
        raise TypeError("system, thinking or exchanges have the wrong type")
    return Conversation(system, thinking, tuple(_exchange(number, item) for number, item in enumerate(exchanges, 1)))


def _exchange(number: int, item: Any) -> Exchange:
    names = [field.name for field in fields(Exchange)]
    if not isinstance(item, dict) or any(not isinstance(item.get(name), _TYPES[name]) for name in names):
        raise TypeError(f"exchange {number} has the wrong form")
    return Exchange(**{name: item[name] for name in names if name in item})


def _replace(path: Path, data: bytes) -> None:
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    DurableFiles().sync_folder(path.parent)
