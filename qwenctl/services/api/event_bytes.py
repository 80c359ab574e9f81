"""Server-sent events as bytes. Source: HTML standard, section 9.2 "Server-sent events"."""

from __future__ import annotations

import json
from typing import Any

DONE_EVENT = b"data: [DONE]\n\n"


def encode_json(value: Any) -> bytes:
    """Return `value` as compact JSON in UTF-8. JSON escapes line breaks, so it fits one line of an event."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def data_event(value: Any) -> bytes:
    """Return an event without a name."""
    return b"data: " + encode_json(value) + b"\n\n"


def named_event(name: str, value: Any) -> bytes:
    """Return an event of the type `name`."""
    return b"event: " + name.encode("ascii") + b"\ndata: " + encode_json(value) + b"\n\n"


def comment(text: str) -> bytes:
    """Return what clients skip: it keeps a connection from being taken for dead."""
    return b": " + text.encode("ascii", "replace").replace(b"\n", b" ") + b"\n\n"
