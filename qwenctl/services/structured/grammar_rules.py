"""A GBNF grammar while it is built: rules as values, equal ones shared, dead ones dropped, the size bounded. Pure.

    rule ::= alternative | alternative …        an alternative is a sequence of items; an empty one matches nothing
    item     Terminal (GBNF text that begins with a character), Ref (another rule), Repeat (a rule several times)

Knows nothing of JSON and schemas. GBNF as llama.cpp 0c1e57098 parses it (src/llama-grammar.cpp): it copies what is
repeated and turns a count above 2000 into no limit at all, so long repetitions are cut into chunks here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qwenctl.errors import InvalidRequest
from qwenctl.services.structured.automaton import Ranges

MAX_RULES = 20_000
MAX_BYTES = 512 << 10
_CHUNK = 500
_DEEPEST_FACTOR = 60


@dataclass(frozen=True, slots=True)
class Terminal:
    """GBNF text of a literal or a class of characters."""

    text: str


@dataclass(frozen=True, slots=True)
class Ref:
    """Another rule."""

    name: str


@dataclass(frozen=True, slots=True)
class Repeat:
    """A rule `low` to `high` times; None: without end."""

    name: str
    low: int
    high: int | None


Item = Terminal | Ref | Repeat
Alternative = tuple[Item, ...]


class RuleTable:
    """The rules of one grammar.

    Raises:
        InvalidRequest: by every method that adds one: there are too many.
    """

    def __init__(self) -> None:
        self._rules: dict[str, tuple[Alternative, ...]] = {}
        self._names: dict[tuple[Alternative, ...], str] = {}
        self._n_named: dict[str, int] = {}

    def reserve(self, base: str) -> str:
        """Return a new name that begins like `base`; `define` must follow."""
        number = self._n_named.get(base, 0)
        self._n_named[base] = number + 1
        if len(self._rules) >= MAX_RULES:
            raise InvalidRequest(f"the schema needs a grammar of more than {MAX_RULES:,} rules: simplify it")
        name = f"{base}-{number}" if number else base
        self._rules[name] = ()
        return name

    def define(self, name: str, alternatives: Iterable[Sequence[Item]]) -> None:
        """Say what the reserved rule `name` is."""
        self._rules[name] = tuple(dict.fromkeys(tuple(alternative) for alternative in alternatives))

    def add(self, base: str, alternatives: Iterable[Sequence[Item]]) -> str:
        """Return the name of a rule with these alternatives; an equal one is used again."""
        rule = tuple(dict.fromkeys(tuple(alternative) for alternative in alternatives))
        if rule not in self._names:
            name = self.reserve(base)
            self._names[rule] = name
            self._rules[name] = rule
        return self._names[rule]

    def factored(self, alternatives: Sequence[Sequence[Item]], depth: int = 0) -> list[Sequence[Item]]:
        """Return the same alternatives, with what several of them begin with written once.

        Objects that differ in a late property are then one reading up to it, and not several, which would multiply
        where such objects hold each other.
        """
        groups: dict[Item | None, list[Alternative]] = {}
        originals: dict[Item | None, Sequence[Item]] = {}
        for alternative in alternatives:
            unfolded = self._unfolded(tuple(alternative))
            groups.setdefault(unfolded[0] if unfolded else None, []).append(unfolded)
            originals[unfolded[0] if unfolded else None] = alternative
        result: list[Sequence[Item]] = []
        for first, group in groups.items():
            distinct = list(dict.fromkeys(group))
            if first is None or len(distinct) == 1 or depth > _DEEPEST_FACTOR:
                result += [originals[first]] if len(distinct) == 1 else distinct
                continue
            n_shared = _n_shared(distinct)
            rests = self.factored([one[n_shared:] for one in distinct], depth + 1)
            result.append((*distinct[0][:n_shared], Ref(self.add("rest", rests))))
        return result

    def _unfolded(self, alternative: Alternative) -> Alternative:
        """Put the only alternative of a rule in the place of its name, at the beginning."""
        for _ in range(_DEEPEST_FACTOR):
            first = alternative[0] if alternative else None
            rule = self._rules.get(first.name, ()) if isinstance(first, Ref) else ()
            if len(rule) != 1:
                break
            alternative = (*rule[0], *alternative[1:])
        return alternative

    def repeat(self, name: str, low: int, high: int | None) -> list[Item]:
        """Return items that match the rule `name` from `low` to `high` times."""
        n_chunks, low_rest = divmod(low, _CHUNK) if low > 2 * _CHUNK else (0, low)
        n_more, more_rest = (0, None) if high is None else divmod(high - low, _CHUNK)
        items: list[Item] = []
        if n_chunks or n_more > 1:
            chunk = self.add(f"{name}-chunk", [(Repeat(name, _CHUNK, _CHUNK),)])
            items += [Repeat(chunk, n_chunks, n_chunks)] if n_chunks else []
            items += [Repeat(name, low_rest, low_rest)] if low_rest else []
            if n_more > 1 and more_rest is not None:
                # up to n_more - 1 whole chunks, then up to a chunk and the rest: every number, no gap
                return [*items, Repeat(chunk, 0, n_more - 1), Repeat(name, 0, _CHUNK + more_rest)]
            low_rest = 0
        last = None if high is None else low_rest + high - low
        return [*items, Repeat(name, low_rest, last)] if last != 0 else items

    def text(self, start: str) -> str | None:
        """Return the grammar with `start` as its rule `root`; None: there is no text that it matches.

        Raises:
            InvalidRequest: it is too long.
        """
        alive = self._productive()
        if start not in alive:
            return None
        lines, todo, seen = [], [start], {start}
        for name in todo:  # grows
            alternatives = [one for one in self._rules[name] if all(_lives(item, alive) for item in one)]
            for other in (item.name for one in alternatives for item in one if not isinstance(item, Terminal)):
                if other in alive and other not in seen:
                    seen.add(other)
                    todo.append(other)
            body = " | ".join(_sequence_text(one, alive) for one in alternatives)
            lines.append(f"{'root' if name == start else name} ::= {body}")
        text = "\n".join(lines) + "\n"
        if len(text.encode()) > MAX_BYTES:
            raise InvalidRequest(f"the grammar of the schema is longer than {MAX_BYTES >> 10} KiB: simplify the schema")
        return text

    def _productive(self) -> set[str]:
        """The rules that some finite text matches: values that must hold themselves are none."""
        users: dict[str, list[str]] = {}
        for name, alternatives in self._rules.items():
            for other in {i.name for one in alternatives for i in one if not isinstance(i, Terminal)}:
                users.setdefault(other, []).append(name)
        alive: set[str] = set()
        todo = list(self._rules)
        while todo:
            name = todo.pop()
            if name not in alive and any(all(_lives(item, alive) for item in one) for one in self._rules[name]):
                alive.add(name)
                todo += users.get(name, [])
        return alive


def _n_shared(alternatives: Sequence[Alternative]) -> int:
    """Return how many items all alternatives begin with."""
    return next(
        (n for n, items in enumerate(zip(*alternatives, strict=False)) if len(set(items)) > 1),
        min(map(len, alternatives)),
    )


def literal(text: str) -> Terminal:
    """Return the terminal that matches exactly `text`, one character at least."""
    return Terminal('"' + "".join(_escaped(ord(character)) for character in text) + '"')


def one_of(ranges: Ranges) -> Terminal:
    """Return the terminal that matches one character of `ranges`."""
    parts = [_escaped(low) if low == high else f"{_escaped(low)}-{_escaped(high)}" for low, high in ranges]
    return Terminal("[" + "".join(parts) + "]")


def _escaped(code: int) -> str:
    """The character as it may stand in a GBNF literal or class."""
    character = chr(code)
    if character in '"\\[]':
        return "\\" + character
    if 0x20 <= code < 0x7F and character not in "^-":
        return character
    return f"\\x{code:02X}" if code < 0x100 else f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"


def _lives(item: Item, alive: set[str]) -> bool:
    return isinstance(item, Terminal) or item.name in alive or (isinstance(item, Repeat) and item.low == 0)


def _sequence_text(items: Alternative, alive: set[str]) -> str:
    """The items as GBNF, with one literal made of neighbours; what can only be repeated no times is left out."""
    texts: list[str] = []
    for item in items:
        if isinstance(item, Repeat) and (item.high == 0 or item.name not in alive):
            continue
        text = _item_text(item)
        if text[0] == '"' and texts and texts[-1][0] == '"':
            texts[-1] = texts[-1][:-1] + text[1:]
        else:
            texts.append(text)
    return " ".join(texts) or '""'


def _item_text(item: Item) -> str:
    if isinstance(item, Terminal):
        return item.text
    if isinstance(item, Ref):
        return item.name
    count = {(0, 1): "?", (0, None): "*", (1, None): "+", (1, 1): ""}.get((item.low, item.high))
    if count is None:
        upper = "" if item.high is None else item.high
        count = f"{{{item.low}}}" if item.low == item.high else f"{{{item.low},{upper}}}"
    return item.name + count
