"""The rules of a GBNF grammar, as far as its size and its first steps are concerned. Pure.

Reads what llama.cpp 0c1e57098 reads (src/llama-grammar.cpp), groups as rules of their own. Of what a literal holds only
the first character matters here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.automaton import ANY, Ranges, complement, union

MAX_DEPTH = 256  # of groups; the parser of llama.cpp 0c1e57098 overflows the stack at some tens of thousands
UNENDING = None

_TOKEN = re.compile(
    r"""(?P<blank>(?:[ \t\r\n]|\#[^\r\n]*)+) | (?P<literal>"(?:\\.|[^"\\])*") | (?P<class>\[(?:\\.|[^\]\\])*\])
      | (?P<token>!?<[^>]*>) | (?P<name>[a-zA-Z0-9-]+)(?P<rule>[ \t]*::=)?
      | (?P<count>\{\s*\d{1,9}\s*(?:,\s*(?:\d{1,9})?\s*)?\})
      | (?P<sign>[|()*+?.])""",
    re.DOTALL | re.VERBOSE,
)
_CHARACTER = re.compile(r"\\(?:x.{2}|u.{4}|U.{8}|.)|.", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:x.{2}|u.{4}|U.{8}|.)", re.DOTALL)
_SIGNS: dict[str, tuple[int, int | None]] = {"*": (0, UNENDING), "+": (1, UNENDING), "?": (0, 1)}


@dataclass(slots=True)
class Item:
    """Something in a sequence, repeated `low` to `high` times."""

    rule: str | None  # None: characters
    n_elements: int  # of llama.cpp's list, once
    low: int = 1
    high: int | None = 1
    first: Ranges = ()  # of characters: what they may begin with


Sequence = list[Item]


def read_rules(grammar: str) -> dict[str, list[Sequence]]:
    """Return the alternatives of each rule; those of groups have names that no grammar can write.

    Raises:
        InvalidRequest: it is not GBNF, or its groups are nested too deeply.
    """
    reader = _Reader(grammar)
    if reader.deepest > MAX_DEPTH:
        raise InvalidRequest(
            f"the groups of the grammar are nested {reader.deepest:,} deep; at most {MAX_DEPTH} are taken"
        )
    return reader.rules


class _Reader:
    def __init__(self, grammar: str) -> None:
        self.rules: dict[str, list[Sequence]] = {}
        self.deepest = 0  # of groups
        self._open: list[list[Sequence]] = []  # rule and groups around the current place
        self._n_groups = 0
        at = 0
        while at < len(grammar):
            match = _TOKEN.match(grammar, at)
            if not match:
                raise InvalidRequest(f"the grammar is not GBNF at {grammar[at : at + 20]!r}")
            self._take(match)
            at = match.end()
        if len(self._open) > 1:
            raise InvalidRequest("the grammar is not GBNF: a ( is not closed")

    def _take(self, match: re.Match[str]) -> None:
        text, kind = match[0], match.lastgroup
        if kind == "blank":
            return
        if match["rule"]:
            self._begin(match["name"])
            return
        if not self._open:
            raise InvalidRequest(f"the grammar is not GBNF: {text[:20]!r} stands before any rule")
        if kind == "sign" and text != ".":
            self._sign(text)
        elif kind == "count":
            low, comma, high = text.strip("{}").partition(",")
            self._repeat(int(low), (int(high) if high.strip() else UNENDING) if comma else int(low))
        else:
            sizes = {"literal": len(_ESCAPE.sub("x", text)) - 2, "class": 2 * len(text)}
            item = Item(text if kind == "name" else None, sizes.get(kind or "", 1))
            item.first = _first(kind or "", text)
            self._current.append(item)

    def _sign(self, sign: str) -> None:
        if sign in _SIGNS:
            self._repeat(*_SIGNS[sign])
        elif sign == "|":
            self._open[-1].append([])
        elif sign == "(":
            self._group()
        else:
            self._close()

    @property
    def _current(self) -> Sequence:
        return self._open[-1][-1]

    def _begin(self, name: str) -> None:
        if len(self._open) > 1:
            raise InvalidRequest(f"the grammar is not GBNF: a ( before the rule {name[:40]} is not closed")
        self.rules[name] = [[]]
        self._open = [self.rules[name]]

    def _group(self) -> None:
        self._n_groups += 1
        name = f"({self._n_groups}"
        self.rules[name] = [[]]
        self._current.append(Item(name, 1))
        self._open.append(self.rules[name])
        self.deepest = max(self.deepest, len(self._open) - 1)

    def _close(self) -> None:
        if len(self._open) < 2:
            raise InvalidRequest("the grammar is not GBNF: a ) closes nothing")
        self._open.pop()

    def _repeat(self, low: int, high: int | None) -> None:
        if not self._current:
            raise InvalidRequest("the grammar is not GBNF: nothing stands before a repetition")
        last = self._current[-1]
        if (last.low, last.high) != (1, 1):  # a repetition of a repetition
            name = f"({self._n_groups} repeated {len(self.rules)}"
            self.rules[name] = [[last]]
            self._current[-1] = last = Item(name, 1)
        last.low, last.high = low, high


def _first(kind: str, text: str) -> Ranges:
    """What a literal, a class or `.` may begin with; for a token, which is named by its number, anything."""
    if kind == "name":
        return ()
    if kind == "literal":
        begin = _CHARACTER.match(text, 1, len(text) - 1)
        return ((_code(begin[0]), _code(begin[0])),) if begin else ()
    if kind != "class":
        return ANY
    inner = text[1:-1]
    negated = inner.startswith("^")
    parts: list[Ranges] = []
    characters = _CHARACTER.findall(inner[1:] if negated else inner)[::-1]  # the next one last: taken at no cost
    while characters:
        low = high = _code(characters.pop())
        if len(characters) > 1 and characters[-1] == "-":
            high = _code(characters[-2])
            del characters[-2:]
        parts.append(((low, high),) if low <= high else ())
    return complement(union(*parts)) if negated else union(*parts)


def _code(text: str) -> int:
    if text[0] != "\\" or len(text) < 2:
        return ord(text[0])
    if text[1] in "xuU":
        try:
            return int(text[2:], 16)
        except ValueError:  # llama.cpp refuses it
            return 0
    return {"n": 10, "r": 13, "t": 9}.get(text[1], ord(text[1]))
