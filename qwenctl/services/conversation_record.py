"""A conversation as JSON values, for files (conversation_file.py), sessions (session_store.py) and exports:

    {"system": …, "thinking": …, "exchanges": [{"user": …, "answer": …, "reasoning": …, "partial": …, "steps": …}, …]}

Steps are messages: {"role": …, "content": …, "reasoning": …, "extra": …}.

Knows no files.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from qwenctl.core import Message
from qwenctl.services.conversation import Conversation, Exchange

_TYPES: dict[str, tuple[type, ...]] = {
    "user": (str,),
    "answer": (str, type(None)),
    "reasoning": (str, type(None)),
    "partial": (bool,),
}
_MESSAGE_TYPES: dict[str, tuple[type, ...]] = {
    "role": (str,),
    "content": (str,),
    "reasoning": (str, type(None)),
    "extra": (dict,),
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
    steps = record.get("steps", []) if isinstance(record, dict) else None  # earlier versions wrote none
    if not isinstance(steps, list) or not _has(record, _TYPES) or not all(_has(one, _MESSAGE_TYPES) for one in steps):
        raise TypeError(f"exchange {number} has the wrong form")
    messages = tuple(Message(**{name: one[name] for name in _MESSAGE_TYPES}) for one in steps)
    return Exchange(**{name: record[name] for name in _TYPES if name in record}, steps=messages)


def _has(record: Any, types: dict[str, tuple[type, ...]]) -> bool:
    return isinstance(record, dict) and all(isinstance(record.get(name), kinds) for name, kinds in types.items())


def json_text(value: Any, indent: int | None = None) -> str:
    """Return `value` as JSON that UTF-8 can hold: text stays readable, half a surrogate pair becomes JSON's escape."""
    return json.dumps(value, ensure_ascii=False, indent=indent).encode("utf-8", "backslashreplace").decode()
