"""JSON that comes in pieces, passed on as far as it is certain to be the beginning of a JSON text. Pure.

Read as Python's decoder does with `strict=False`: control characters may stand in strings as they are, since models put
line breaks there; they are passed on as escapes. Half a surrogate pair becomes "?", as where text is made UTF-8: some
clients take it for no JSON. Grammar: RFC 8259.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from enum import Enum, auto

# The escape of a pair's first half waits for what follows it: a pair stays together.
_STRING = re.compile(
    r'(?:[^"\\]++|\\["\\/bfnrt]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}'
    r"|\\u[0-9a-fA-F]{4}(?=[^\\]|\\[^u]|\\u[0-9a-fA-F]{4}))*+"
)
_BEGUN_ESCAPE = re.compile(
    r"\\(?:u(?:[0-9a-fA-F]{0,3}|[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u[0-9a-fA-F]{0,3})?)?)?)?"
)  # fmt: skip
_HALF = re.compile(r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)")
_CONTROL = re.compile(r"[\x00-\x1f]")
_TOKEN = re.compile(r'[ \t\n\r]+|[{}\[\]:,"]|[-+.0-9A-Za-z]+')
_SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")
_WORD = re.compile(r"[-+.0-9A-Za-z]")
_LONGEST_WORD = 1000  # characters: it waits for its end; Python's decoder takes integers up to 4300


class _Next(Enum):
    """What may come."""

    VALUE = auto()
    VALUE_OR_END = auto()
    KEY = auto()
    KEY_OR_END = auto()
    COLON = auto()
    COMMA_OR_END = auto()


_VALUES = (_Next.VALUE, _Next.VALUE_OR_END)
_KEYS = (_Next.KEY, _Next.KEY_OR_END)
_PLACES = {
    "{": _VALUES,
    "[": _VALUES,
    "}": (_Next.KEY_OR_END, _Next.COMMA_OR_END),
    "]": (_Next.VALUE_OR_END, _Next.COMMA_OR_END),
    ",": (_Next.COMMA_OR_END,),
    ":": (_Next.COLON,),
    '"': _VALUES + _KEYS,
}
_OPENINGS = {"}": "{", "]": "["}


class JsonScanner:
    """Goes on within objects and lists that are open.

    Args:
        opened: "{" or "[" of each, the outermost first; the innermost is empty so far.
    """

    def __init__(self, opened: Sequence[str]) -> None:
        self.held = ""  # what is not passed on yet
        self.is_broken = False  # what is held cannot go on a JSON text
        self._opened = list(opened)
        self._next = _Next.KEY_OR_END if opened[-1] == "{" else _Next.VALUE_OR_END
        self._in_string = False

    @property
    def depth(self) -> int:
        """How many objects and lists are open."""
        return len(self._opened)

    def take(self, text: str, *, down_to: int) -> str:
        """Return what `text` makes certain, up to where the depth falls to `down_to`."""
        self.held += text
        passed: list[str] = []
        at = 0
        while at < len(self.held) and self.depth > down_to and not self.is_broken:
            piece, end = self._string(at) if self._in_string else self._token(at)
            if end == at:
                break
            passed.append(piece)
            at = end
        self.held = self.held[at:]
        return "".join(passed)

    def _string(self, at: int) -> tuple[str, int]:
        """Return what is certain of the inside of a string, and where that ends."""
        run = _STRING.match(self.held, at)
        end = run.end() if run else at
        piece = _CONTROL.sub(lambda found: json.dumps(found[0])[1:-1], self.held[at:end])
        if "\\u" in piece:
            piece = _HALF.sub(lambda found: "?" if found[1] else found[0], piece)
        if self.held.startswith('"', end):
            self._in_string = False
            return piece + '"', end + 1
        self.is_broken = end < len(self.held) and not _BEGUN_ESCAPE.fullmatch(self.held, end)
        return piece, end

    def _token(self, at: int) -> tuple[str, int]:
        """Return the next token, and where it ends; the same place: there is none yet."""
        found = _TOKEN.match(self.held, at)
        lexeme = found[0] if found else ""
        if found and _WORD.match(lexeme) and found.end() == len(self.held) and len(lexeme) <= _LONGEST_WORD:
            return "", at  # it may go on
        self.is_broken = len(lexeme.lstrip()) > _LONGEST_WORD or not self._accepts(lexeme)
        return ("", at) if self.is_broken else (lexeme, at + len(lexeme))

    def _accepts(self, lexeme: str) -> bool:
        """Take a token if it may come here."""
        if lexeme.isspace():
            return True
        innermost = self._opened[-1]
        fits = self._next in _PLACES.get(lexeme, _VALUES) and _OPENINGS.get(lexeme, innermost) == innermost
        if not fits or (lexeme not in _PLACES and not _SCALAR.fullmatch(lexeme)):
            return False
        if lexeme in ("{", "["):
            self._opened.append(lexeme)
            self._next = _Next.KEY_OR_END if lexeme == "{" else _Next.VALUE_OR_END
        elif lexeme in _OPENINGS:
            self._opened.pop()
            self._next = _Next.COMMA_OR_END
        elif lexeme in (",", ":"):
            self._next = _Next.KEY if lexeme == "," and innermost == "{" else _Next.VALUE
        else:
            self._in_string = lexeme == '"'
            self._next = _Next.COLON if self._next in _KEYS else _Next.COMMA_OR_END
        return True
