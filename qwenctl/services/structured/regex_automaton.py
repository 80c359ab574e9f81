"""Regular expressions of JSON schemas as automata: no backtracking, so no expression of a stranger takes for ever.

The dialect is what JSON Schema recommends of ECMA-262: literals, classes, `.`, `\\d \\w \\s`, groups, `|`, repetitions,
and `^` and `$` as assertions of the text's ends. `\\d` and `\\w` are ASCII, as there. What an automaton cannot do
(look-around, back references) is refused. An expression matches anywhere in the text unless it is anchored.

    pattern → tree of _Node (_Parser) → states of a non-deterministic automaton (_Builder) → Automaton (explore)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.automaton import (
    ANY,
    Automaton,
    Budget,
    Ranges,
    TooManyStates,
    complement,
    explore,
    overlap,
    union,
)

_MAX_CHARACTERS = 2000
_MAX_DEPTH = 50  # of groups
_MAX_COUNT = 1000  # of a repetition
_MAX_NODES = 20_000  # of the automaton before it is made deterministic

_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Ranges = union(
    *(((low, high),) for low, high in [(0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)]),
    ((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
_LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00}
_COUNT = re.compile(r"\{(\d{1,9})(?:(,)(\d{1,9})?)?\}")


@dataclass(frozen=True, slots=True)
class _Set:
    ranges: Ranges


@dataclass(frozen=True, slots=True)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    options: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    part: _Node
    low: int
    high: int | None


@dataclass(frozen=True, slots=True)
class _Begin:
    """`^`"""


@dataclass(frozen=True, slots=True)
class _End:
    """`$`"""


_Node = _Set | _Sequence | _Choice | _Repeat | _Begin | _End
_SIGNS: Mapping[str, _Node] = {".": _Set(complement(_LINE_ENDS)), "^": _Begin(), "$": _End()}


def pattern_automaton(pattern: str, budget: Budget) -> Automaton:
    """Return what accepts the texts in which `pattern` matches somewhere.

    Raises:
        InvalidRequest: it is no regular expression, one that no automaton can follow, or too large.
    """
    if len(pattern) > _MAX_CHARACTERS:
        raise InvalidRequest(f"the pattern {pattern[:40]!r}… is longer than {_MAX_CHARACTERS:,} characters")
    builder = _Builder(pattern)
    start = builder.add(_Parser(pattern).parse())
    try:
        return _deterministic(builder, start, budget)
    except TooManyStates as error:
        raise InvalidRequest(f"the pattern {_shown(pattern)} is too large: simplify it") from error


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._pattern, self._at, self._depth = pattern, 0, 0

    def parse(self) -> _Node:
        node = self._choice()
        if self._at < len(self._pattern):
            raise self._error("an unmatched )")
        return node

    def _choice(self) -> _Node:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else _Choice(tuple(options))

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self._at < len(self._pattern) and self._pattern[self._at] not in "|)":
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else _Sequence(tuple(parts))

    def _repeated(self, node: _Node) -> _Node:
        count = self._count()
        if count is None:
            return node
        low, high = count
        if isinstance(node, _Begin | _End):
            raise self._error("a repeated anchor")
        if low > _MAX_COUNT or (high or 0) > _MAX_COUNT:
            raise self._error(f"a repetition of more than {_MAX_COUNT}")
        if high is not None and high < low:
            raise self._error("a repetition whose numbers are out of order")
        self._take("?")  # lazy or not, the same texts match
        if self._count() is not None:  # none in ECMA-262 either; without this, 1,000 of them are a tree 1,000 deep
            raise self._error("a repetition of a repetition")
        return _Repeat(node, low, high)

    def _count(self) -> tuple[int, int | None] | None:
        for sign, count in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._take(sign):
                return count
        match = _COUNT.match(self._pattern, self._at)
        if not match:
            return None
        self._at = match.end()
        low = int(match[1])
        return low, (int(match[3]) if match[3] else None) if match[2] else low

    def _atom(self) -> _Node:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return _Set(self._class())
        if character in _SIGNS:
            return _SIGNS[character]
        if character == "\\":
            return _Set(self._escape(in_class=False))
        if character in "*+?":
            raise self._error(f"{character} with nothing before it")
        return _Set(((ord(character), ord(character)),))

    def _group(self) -> _Node:
        if self._take("?"):
            if self._take("<") and self._peek() not in "=!":
                name_end = self._pattern.find(">", self._at)
                if name_end < 0:
                    raise self._error("an unfinished group name")
                self._at = name_end + 1
            elif not self._take(":"):
                raise self._error("look-around or flags, which cannot be enforced")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error(f"groups nested more than {_MAX_DEPTH} deep")
        node = self._choice()
        if not self._take(")"):
            raise self._error("an unmatched (")
        self._depth -= 1
        return node

    def _class(self) -> Ranges:
        negated = self._take("^")
        parts: list[Ranges] = []
        while not self._take("]"):
            low = self._class_item()
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                high = self._class_item()
                if low[0][0] != low[-1][1] or high[0][0] != high[-1][1] or low[0][0] > high[0][0]:
                    raise self._error("a bad range in [ ]")
                low = ((low[0][0], high[0][0]),)
            parts.append(low)
        ranges = overlap(union(*parts), ANY)
        return complement(ranges) if negated else ranges

    def _class_item(self) -> Ranges:
        character = self._next()
        return self._escape(in_class=True) if character == "\\" else ((ord(character), ord(character)),)

    def _escape(self, *, in_class: bool) -> Ranges:
        character = self._next()
        if character.lower() in _CLASSES:
            ranges = _CLASSES[character.lower()]
            return ranges if character.islower() else complement(ranges)
        if character == "b" and in_class:
            return ((0x08, 0x08),)
        if character in "xu":
            code = self._hexadecimal(character)
        elif character == "c" and self._peek().isascii() and self._peek().isalpha():
            code = ord(self._next()) % 32
        elif character in _CONTROLS:
            code = _CONTROLS[character]
        elif character.isalnum():
            raise self._error(f"\\{character}, which cannot be enforced")
        else:
            code = ord(character)
        return ((code, code),)

    def _hexadecimal(self, kind: str) -> int:
        length = 2 if kind == "x" else 4
        if kind == "u" and self._take("{"):
            end = self._pattern.find("}", self._at)
            if end < 0:
                raise self._error("an unfinished \\u{ escape")
            digits, self._at = self._pattern[self._at : end], end + 1
        else:
            digits, self._at = self._pattern[self._at : self._at + length], self._at + length
        if not re.fullmatch(r"[0-9a-fA-F]{1,6}", digits) or int(digits, 16) > 0x10FFFF:
            raise self._error(f"a bad \\{kind} escape")
        return int(digits, 16)

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        if self._peek() != text:
            return False
        self._at += 1
        return True

    def _next(self) -> str:
        character = self._peek()
        if not character:
            raise self._error("an unfinished expression")
        self._at += 1
        return character

    def _error(self, what: str) -> InvalidRequest:
        return InvalidRequest(f"the pattern {_shown(self._pattern)} holds {what} at character {self._at}")


class _Builder:
    """Nodes of a non-deterministic automaton (Thompson's construction), built from the end to the beginning.

    A node is a set of characters and the node after it, or a fork without characters, or an anchor.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.sets: list[Ranges | None] = [None]  # node 0: everything has matched
        self.nexts: list[tuple[int, ...]] = [()]
        self.begins: set[int] = set()  # passed at the text's beginning only
        self.ends: set[int] = set()  # passed at the text's end only

    def add(self, node: _Node, after: int = 0) -> int:
        """Return the first state of `node`, which goes on with `after`."""
        if isinstance(node, _Set):
            return self._state(node.ranges, (after,))
        if isinstance(node, _Sequence):
            for part in reversed(node.parts):
                after = self.add(part, after)
            return after
        if isinstance(node, _Choice):
            return self._state(None, tuple(self.add(option, after) for option in node.options))
        if isinstance(node, _Repeat):
            return self._repeat(node, after)
        state = self._state(None, (after,))
        (self.begins if isinstance(node, _Begin) else self.ends).add(state)
        return state

    def _repeat(self, node: _Repeat, after: int) -> int:
        if node.high is None:
            loop = self._state(None, ())
            self.nexts[loop] = (self.add(node.part, loop), after)
            after = loop
        else:
            end = after
            for _ in range(node.high - node.low):
                after = self._state(None, (self.add(node.part, after), end))
        for _ in range(node.low):
            before, after = after, self.add(node.part, after)
            if after == before:  # it adds no state: (((){1000}){1000}){1000} would be counted to the end
                break
        return after

    def _state(self, ranges: Ranges | None, nexts: tuple[int, ...]) -> int:
        if len(self.sets) >= _MAX_NODES:
            raise InvalidRequest(f"the pattern {_shown(self._pattern)} is too large: simplify it")
        self.sets.append(ranges)
        self.nexts.append(nexts)
        return len(self.sets) - 1


def _deterministic(builder: _Builder, start: int, budget: Budget) -> Automaton:
    """Follow all paths at once (the subset construction); a match may begin at every character."""

    def reached(states: Iterable[int], *, at_begin: bool, at_end: bool = False) -> frozenset[int]:
        found, todo = set(states), list(states)
        while todo:
            state = todo.pop()
            blocked = (state in builder.begins and not at_begin) or (state in builder.ends and not at_end)
            if builder.sets[state] is not None or blocked:
                continue
            fresh = [other for other in builder.nexts[state] if other not in found]
            found.update(fresh)
            todo += fresh
        budget.spend(len(found) // 2 + 1)
        return frozenset(found)

    def step(key: tuple[frozenset[int], bool]) -> tuple[bool, Iterable[tuple[Ranges, tuple[frozenset[int], bool]]]]:
        states, at_begin = key
        if 0 in states:  # it has matched; what follows does not matter
            return True, [(ANY, (frozenset({0}), False))]
        accepts = 0 in reached(states, at_begin=at_begin, at_end=True)
        arrows = [(ranges, builder.nexts[state][0]) for state in states if (ranges := builder.sets[state])]
        leads = []
        for ranges, targets in _disjoint(arrows):
            leads.append((ranges, (reached({*targets, start}, at_begin=False), False)))
        return accepts, leads

    return explore((reached({start}, at_begin=True), True), step, budget)


def _disjoint(arrows: list[tuple[Ranges, int]]) -> Iterable[tuple[Ranges, frozenset[int]]]:
    """Yield all characters in classes that lead to the same states; a class may lead to none."""
    edges: dict[int, list[tuple[int, bool]]] = {0: [], 0xE000: []}
    for ranges, target in arrows:
        for low, high in ranges:
            edges.setdefault(low, []).append((target, True))
            edges.setdefault(high + 1, []).append((target, False))
    open_counts: dict[int, int] = {}
    classes: dict[frozenset[int], list[tuple[int, int]]] = {}
    points = sorted(edges)
    for index, point in enumerate(points):
        for target, opens in edges[point]:
            open_counts[target] = open_counts.get(target, 0) + (1 if opens else -1)
        last = (points[index + 1] if index + 1 < len(points) else 0x110000) - 1
        if point <= last and point <= 0x10FFFF:
            targets = frozenset(target for target, count in open_counts.items() if count)
            classes.setdefault(targets, []).append((point, last))
    for targets, parts in classes.items():
        yield overlap(union(tuple(parts)), ANY), targets


def _shown(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 60 else pattern[:59] + "…")
