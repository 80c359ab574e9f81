"""A conversation as JSON values, for files (conversation_file.py), sessions (session_store.py) and exports:

    {"system": …, "thinking": …, "exchanges": [{"user": …, "answer": …, "reasoning": …, "partial": …}, …]}

Knows no files.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any

from qwenctl.services.conversation import Conversation, Exchange

_TYPES: dict[str, tuple[type, ...]] = {
    "user": (str,),
    "answer": (str, type(None)),
    "reasoning": (str, type(None)),
    "partial": (bool,),
}


def conversation_record(conversation: Conversation) -> dict[str, Any]:
    """Return the values of a conversation."""
    return asdict(conversation)


def exchange_record(exchange: Exchange) -> dict[str, Any]:
    """Return the values of one exchange."""
    return asdict(exchange)


def read_conversation(record: dict[str, Any]) -> Conversation:
    """Return the conversation that `conversation_record` described.

    Raises:
        KeyError, TypeError, ValueError: it did not.
    """
    system, thinking, exchanges = record["system"], record["thinking"], record["exchanges"]
    if not isinstance(system, str | None) or not isinstance(thinking, bool | None) or not isinstance(exchanges, list):
        raise TypeError("system, thinking or exchanges have the wrong type")
    return Conversation(system, thinking, tuple(read_exchange(item, n) for n, item in enumerate(exchanges, 1)))


def read_exchange(record: Any, number: int) -> Exchange:
    """Return the exchange that `exchange_record` described; `number` is for the message.

    Raises:
        TypeError, ValueError: it did not.
    """
    names = [field.name for field in fields(Exchange)]
    if not isinstance(record, dict) or any(not isinstance(record.get(name), _TYPES[name]) for name in names):
        raise TypeError(f"exchange {number} has the wrong form")
    return Exchange(**{name: record[name] for name in names if name in record})


def json_text(value: Any, indent: int | None = None) -> str:
    """Return `value` as JSON that UTF-8 can hold: text stays readable, half a surrogate pair becomes JSON's escape."""
    return json.dumps(value, ensure_ascii=False, indent=indent).encode("utf-8", "backslashreplace").decode()
