"""What is written instead of a character that the terminal's encoding does not have.

A line keeps its width: what is drawn in columns stays in columns.
"""

from __future__ import annotations

import codecs
import unicodedata

NAME = "look-alikes"  # of the error handler, for `errors=`
_LOOK_ALIKES = str.maketrans("▸▾•─━│▌█░…·–—‘’“”≤≥×→", ">v*--||#..---''\"\"<>x>")


def register_look_alikes() -> None:
    """Make `errors="look-alikes"` known to this process."""
    codecs.register_error(NAME, _replace)


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_look_alike, error.object[error.start : error.end])), error.end


def _look_alike(char: str) -> str:
    known = char.translate(_LOOK_ALIKES)
    if known.isascii():
        return known
    if unicodedata.combining(char) or unicodedata.category(char) in ("Cf", "Mn", "Me"):
        return ""
    return "??" if unicodedata.east_asian_width(char) in "WF" else "?"
