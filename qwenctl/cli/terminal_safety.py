"""Text of a stranger on its way to a terminal. A model can write escape sequences: they must not reach the screen."""

from __future__ import annotations


def without_controls(text: str) -> str:
    """Return `text` without the control characters that could move the cursor or reprogram the terminal."""
    if text.isprintable():
        return text
    return "".join(char for char in text.expandtabs(4) if char == "\n" or not _is_control(ord(char)))


def _is_control(code: int) -> bool:
    return code < 0x20 or 0x7F <= code < 0xA0
