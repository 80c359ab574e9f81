"""Text of a stranger on its way to a terminal. A model can write escape sequences: they must not reach the screen."""

from __future__ import annotations

# Characters that reorder the text around them: what is read is then not what is copied and run (CVE-2021-42574). The
# marks U+200E, U+200F and U+061C stay: they order nothing but themselves.
_REORDER = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_LINE_BREAKS = frozenset("\u2028\u2029")


def without_controls(text: str) -> str:
    """Return `text` without the characters that could move the cursor, reprogram the terminal or reorder the line.

    Tabs stay.
    """
    if text.isprintable():
        return text
    kept = (char for char in text if char in "\n\t" or not _is_control(char))
    return "".join("\n" if char in _LINE_BREAKS else char for char in kept)


def _is_control(char: str) -> bool:
    code = ord(char)
    return code < 0x20 or 0x7F <= code < 0xA0 or char in _REORDER
