"""Bytes that somebody sends as text: UTF-8, with or without a byte order mark, or nearly so."""

from __future__ import annotations

from collections.abc import Callable


def decode_utf8(data: bytes, name: str, warn: Callable[[str], None]) -> str:
    """Return the text without byte order mark; what cannot be read becomes �, of which `warn` is told in a line."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        warn(f"{name} is not UTF-8 (byte {error.start}); what cannot be read is replaced by �")
        return data.decode("utf-8-sig", errors="replace")
